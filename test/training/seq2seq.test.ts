import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readPeft } from '../../src/adapters/peft.ts';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import { asSeq2Seq } from '../../src/runtime/seq2seq.ts';
import * as strategies from '../../src/strategies.ts';
import { openModel } from '../../src/training/assemble.ts';
import type { StepEvent } from '../../src/training/reporter.ts';
import { trainRun } from '../../src/training/train.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-seq2seq-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const fixtures = new URL('../../fixtures/', import.meta.url).pathname;

/** A random encoder-decoder with a tokenizer of the same vocabulary. */
function modelFolder(name: 't5' | 'bart'): string {
  const folder = join(scratch, name);
  for (const part of ['config.json', 'onnx'])
    cpSync(join(fixtures, 'backbones', name, part), join(folder, part), { recursive: true });
  for (const file of ['tokenizer.json', 'tokenizer_config.json'])
    cpSync(join(fixtures, 'models/opt', file), join(folder, file));
  return folder;
}

const animals = ['cat', 'dog', 'cow', 'hen', 'fox', 'owl', 'bee', 'ant'];
const rows = join(scratch, 'rows.jsonl');
writeFileSync(
  rows,
  animals.map((word) => JSON.stringify({ prompt: `one ${word}`, completion: ` two ${word}s` })).join('\n'),
);

function run(model: string, output: string, changes: { task?: string; dropout?: number } = {}) {
  return resolveRunConfig(
    {
      model: { path: model },
      data: { task: changes.task ?? 'prompt', train: rows, dev: rows, maxLength: 32, shuffle: false },
      adapter: { strategy: 'alora', examples: 4, rounds: 2, dropout: changes.dropout ?? 0 },
      budget: { rank: 2 },
      train: { steps: 12, batchSize: 4, learningRate: 3e-2, evalEvery: 6 },
      runtime: { threads: 1 },
      output,
    },
    { strategies },
  );
}

describe('an encoder-decoder in two files', () => {
  it.each(['t5', 'bart'] as const)(
    '%s learns completions, merges into both files and is verified',
    async (name) => {
      const model = modelFolder(name);
      const output = join(scratch, `${name}-run`);
      const steps: StepEvent[] = [];
      const dropout = name === 't5' ? 0.1 : 0;
      await trainRun(run(model, output, { dropout }), {
        strategies,
        reporters: [{ onStep: (event) => steps.push(event) }],
      });
      // The end token is learnt as well.
      expect(steps[0]!.labels).toBeGreaterThan(4 * 3);
      expect(steps.at(-1)!.loss).toBeLessThan(0.7 * steps[0]!.loss);
      const adapter = readPeft(join(output, 'adapter'));
      expect(adapter.taskType).toBe('SEQ_2_SEQ_LM');
      const halves = [...adapter.modules.keys()].map((module) => /(en|de)coder/.exec(module)?.[0]);
      expect(new Set(halves)).toEqual(new Set(['encoder', 'decoder']));
      const merged = await mergeModel({
        adapter: join(output, 'adapter'),
        model,
        out: join(scratch, `${name}-merged`),
        threads: 1,
      });
      expect(merged.merged.map(({ file }) => file)).toEqual([
        'onnx/decoder_model.onnx',
        'onnx/decoder_model_merged.onnx',
        'onnx/encoder_model.onnx',
      ]);
      expect(merged.verification.map(({ file }) => file)).toEqual([
        'onnx/decoder_model.onnx',
        'onnx/decoder_model_merged.onnx',
      ]);
      // Sums in another order.
      for (const { maxDelta } of merged.verification) expect(maxDelta).toBeLessThan(1e-4);
    },
  );

  it('needs a prompt, and its encoder', async () => {
    const model = modelFolder('bart');
    await expect(
      trainRun(run(model, join(scratch, 'text'), { task: 'text' }), { strategies }),
    ).rejects.toMatchObject({
      code: 'TASK_MODEL',
    });
    rmSync(join(model, 'onnx/encoder_model.onnx'));
    expect(() => openModel({ path: model })).toThrow(/the encoder is not there/);
  });
});

describe('asSeq2Seq', () => {
  it('gives the prompt and an end token to the encoder, the start token and the completion to the decoder', () => {
    const ints = (...values: number[]) => BigInt64Array.from(values, BigInt);
    // Rows: 5 6 | 7 8, of which 7, 8 and the end token 2 are learnt; 5 | 9, of which 9 is learnt.
    const batch = {
      size: 2,
      length: 4,
      inputIds: ints(5, 6, 7, 8, 5, 9, 1, 1),
      attentionMask: ints(1, 1, 1, 1, 1, 1, 0, 0),
      positionIds: ints(0, 1, 2, 3, 0, 1, 2, 3),
      rows: ints(1, 2, 3, 4),
      targets: ints(7, 8, 2, 9),
    };
    expect(asSeq2Seq(batch, { begins: [0], eosId: 2 })).toEqual({
      size: 2,
      length: 3,
      inputIds: ints(5, 6, 2, 5, 2, 2),
      attentionMask: ints(1, 1, 1, 1, 1, 0),
      positionIds: ints(0, 1, 2, 0, 1, 2),
      decoder: { length: 3, inputIds: ints(0, 7, 8, 0, 2, 2) },
      rows: ints(0, 1, 2, 3),
      targets: ints(7, 8, 2, 9),
    });
  });
});
