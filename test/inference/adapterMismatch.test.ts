import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type LoadedPeftAdapter, readPeft } from '../../src/adapters/peft.ts';
import { writePeft } from '../../src/adapters/peftWriter.ts';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import { generateFrom } from '../../src/inference/generate.ts';
import { loadModel } from '../../src/inference/loadModel.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import * as strategies from '../../src/strategies.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-mismatch-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const rows = join(scratch, 'rows.jsonl');
writeFileSync(rows, '{"text": "the cat", "label": 0}\n{"text": "the dog", "label": 2}\n');

/** A copy of a fixture's adapter with another tensor somewhere. */
function altered(name: string, change: (adapter: LoadedPeftAdapter) => Partial<LoadedPeftAdapter>): string {
  const folder = join(scratch, `${name}-${Math.random().toString(36).slice(2)}`);
  const adapter = readPeft(`fixtures/peft/adapters/${name}`);
  writePeft(folder, { ...adapter, ...change(adapter) });
  return folder;
}

const out = join(scratch, 'merged');
const merge = (model: string, adapter: string) => mergeModel({ model, adapter, out, threads: 1 });
const generate = (model: string, adapter: string) =>
  generateFrom({ model, adapter, prompt: 'the', maxNewTokens: 1, threads: 1 });
const evaluate = (task: string) => (model: string, adapter: string) =>
  evaluateRun(
    resolveRunConfig(
      {
        model: { path: model },
        data: { task, train: rows, dev: rows, maxLength: 16 },
        runtime: { threads: 1 },
      },
      { strategies },
    ),
    { adapter },
  );
const serve = async (model: string, adapter: string) => {
  const served = await loadModel(model, { threads: 1 });
  try {
    return await served.logits(['the'], { adapter });
  } finally {
    await served.close();
  }
};

describe('an adapter with a module of other dimensions is refused with its folder and both shapes by', () => {
  const layer = 'model.layers.0.mlp.down_proj';
  it.each([
    ['merge', merge],
    ['generate', generate],
    ['eval', evaluate('text')],
    ['serving', serve],
  ] as const)('%s', async (_, open) => {
    const folder = altered('llama-lora', ({ modules }) => {
      const { rank, in: width, ...weights } = modules.get(layer)!;
      const wide = { ...weights, rank, in: width + 1, A: new Float32Array(rank * (width + 1)) };
      return { modules: new Map([...modules, [layer, wide]]) };
    });
    await expect(open('fixtures/models/llama', folder)).rejects.toMatchObject({
      code: 'ADAPTER_MISMATCH',
      exitCode: 5,
      details: {
        where: `${folder}, ${layer}`,
        got: '49 -> 32',
        allowed: expect.stringMatching(/^48 -> 32/),
        fix: expect.stringContaining('fixtures/models/llama'),
      },
    });
    expect(existsSync(out)).toBe(false);
  });
});

describe('an adapter with a head of other dimensions, likewise by', () => {
  it.each([
    ['merge', merge],
    ['eval', evaluate('classification')],
    ['serving', serve],
  ] as const)('%s', async (_, open) => {
    const folder = altered('bert-head', ({ saved }) => {
      const [, width] = saved.get('classifier.weight')!.dims as [number, number];
      const weight = Tensor.float32(new Float32Array(5 * width), [5, width]);
      const bias = Tensor.float32(new Float32Array(5), [5]);
      return { saved: new Map([...saved, ['classifier.weight', weight], ['classifier.bias', bias]]) };
    });
    await expect(open('fixtures/models/bert', folder)).rejects.toMatchObject({
      code: 'ADAPTER_MISMATCH',
      details: {
        where: expect.stringContaining(`${folder}, classifier`),
        fix: expect.stringContaining('bert'),
      },
    });
    expect(existsSync(out)).toBe(false);
  });
});

it('an adapter with a trained layer that the model does not have is refused, not read in part', async () => {
  const folder = altered('llama-lora', () => ({
    saved: new Map([['model.embed_tokens.weight', Tensor.float32(new Float32Array(8), [4, 2])]]),
    modulesToSave: ['embed_tokens'],
  }));
  for (const open of [merge, generate, evaluate('text')])
    await expect(open('fixtures/models/llama', folder)).rejects.toMatchObject({
      details: { where: folder, got: expect.stringContaining('embed_tokens') },
    });
});
