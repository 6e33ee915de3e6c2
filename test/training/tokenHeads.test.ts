import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { readPeft } from '../../src/adapters/peft.ts';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import * as strategies from '../../src/strategies.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';
import { trainRun } from '../../src/training/train.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-heads-'));
afterAll(() => rmSync(scratch, { recursive: true }));
const fixtures = fileURLToPath(new URL('../../fixtures/', import.meta.url));

/** A random model of fixtures/backbones with the tokenizer of the same vocabulary. */
function modelFolder(name: string): string {
  const folder = join(scratch, name);
  for (const part of ['config.json', 'onnx'])
    cpSync(join(fixtures, 'backbones', name, part), join(folder, part), { recursive: true });
  for (const file of ['tokenizer.json', 'tokenizer_config.json'])
    cpSync(join(fixtures, 'models/bert', file), join(folder, file));
  return folder;
}

function rowsFile(name: string, rows: readonly object[]): string {
  const path = join(scratch, name);
  writeFileSync(path, rows.map((row) => JSON.stringify(row)).join('\n'));
  return path;
}

const nouns = ['tree', 'barn', 'bread', 'debt', 'ferry', 'fish', 'flour', 'fog'];
const questions = rowsFile(
  'questions.jsonl',
  nouns.map((noun, i) => ({
    question: 'was it red',
    context: `the ${noun} was ${'near the wall '.repeat(i % 3)}and the ${nouns[(i + 3) % 8]} hung`,
    answers: { text: [noun], answer_start: [4] },
  })),
);
const tagged = rowsFile(
  'tagged.jsonl',
  nouns.map((noun, i) => ({
    tokens: ['the', noun, 'was', ...(i % 2 ? ['near', 'it'] : [])],
    tags: ['O', 'B-THING', 'O', ...(i % 2 ? ['O', 'O'] : [])],
  })),
);

interface Changes {
  readonly labels?: readonly string[];
  readonly modulesToSave?: readonly string[];
}

const run = (
  task: string,
  model: string,
  rows: string,
  output: string,
  { labels, modulesToSave = [] }: Changes = {},
) =>
  resolveRunConfig(
    {
      model: { path: model },
      data: { task, train: rows, dev: rows, maxLength: 32, ...(labels ? { labels } : {}) },
      adapter: { strategy: 'lora', modulesToSave },
      budget: { rank: 2 },
      train: { steps: 40, batchSize: 4, learningRate: 2e-2, evalEvery: 20 },
      runtime: { threads: 1 },
      output: join(scratch, output),
    },
    { strategies },
  );

/** Trains, evaluates with the saved adapter, merges; the task type of the adapter beside the metrics. */
async function journey(config: ReturnType<typeof run>) {
  await trainRun(config, { strategies });
  const adapter = join(config.output, 'adapter');
  const before = await evaluateRun(config, { split: 'dev' });
  const after = await evaluateRun(config, { split: 'dev', adapter });
  const { taskType, modulesToSave } = readPeft(adapter);
  return { adapter, before, after, taskType, modulesToSave };
}

async function mergedDelta(model: string, adapter: string): Promise<number> {
  const out = join(scratch, `merged-${Math.random()}`);
  const { verification } = await mergeModel({ adapter, model, out, threads: 1 });
  return Math.max(...verification.map(({ maxDelta }) => maxDelta));
}

describe('heads over tokens', () => {
  it('a span head learns where answers stand, and merges', async () => {
    const model = modelFolder('bert-span');
    const config = run('qa-span', model, questions, 'spans', { modulesToSave: ['qa_outputs'] });
    const { adapter, before, after, taskType, modulesToSave } = await journey(config);
    expect([taskType, modulesToSave]).toEqual(['QUESTION_ANS', ['qa_outputs']]);
    expect(after.loss).toBeLessThan(0.3 * before.loss);
    expect(after.metrics).toMatchObject({ em: expect.any(Number), f1: expect.any(Number) });
    expect(after.metrics.em).toBeGreaterThan(0.7);
    // Two ends a row.
    expect(after.labels).toBe(16);
    expect(await mergedDelta(model, adapter)).toBeLessThan(1e-4);
  });

  it('a token head learns tags under its own names, and merges', async () => {
    const model = modelFolder('bert-tokens');
    const labels = ['O', 'B-THING', 'I-THING'];
    const config = run('token-classification', model, tagged, 'tags', {
      labels,
      modulesToSave: ['classifier'],
    });
    const { adapter, after, taskType } = await journey(config);
    expect(taskType).toBe('TOKEN_CLS');
    expect(after.metrics).toMatchObject({ accuracy: 1, precision: 1, recall: 1, f1: 1 });
    expect(after.labels).toBe(8 * 3 + 4 * 2);
    expect(await mergedDelta(model, adapter)).toBeLessThan(1e-4);
  });

  it('an encoder without a head gets one whose classes the rows name', async () => {
    const config = run('token-classification', modelFolder('minilm'), tagged, 'new-tags');
    const { after, taskType, modulesToSave } = await journey(config);
    expect([taskType, modulesToSave]).toEqual(['TOKEN_CLS', ['classifier']]);
    expect(after.metrics).toMatchObject({ accuracy: 1, f1: 1 });
    const metrics = readFileSync(join(config.output, 'metrics.jsonl'), 'utf8');
    expect(metrics).toContain('"precision"');
  });

  it('refuses tasks that ask for something else', async () => {
    const [span, bare] = [modelFolder('bert-span'), modelFolder('minilm')];
    const attempt = (task: string, model: string) =>
      trainRun(run(task, model, questions, 'none'), { strategies });
    await expect(attempt('classification', span)).rejects.toMatchObject({
      code: 'TASK_MODEL',
      details: { allowed: ['qa-span', 'squad'] },
    });
    await expect(attempt('qa-span', bare)).rejects.toMatchObject({ code: 'TASK_MODEL' });
    await expect(attempt('token-classification', join(fixtures, 'models/gpt2'))).rejects.toMatchObject({
      code: 'TASK_MODEL',
    });
  });
});
