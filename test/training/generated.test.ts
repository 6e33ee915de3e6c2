import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import * as strategies from '../../src/strategies.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';
import { trainRun } from '../../src/training/train.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-generated-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const rows = join(scratch, 'rows.jsonl');
const words = ['cat', 'dog', 'fox', 'hen'];
writeFileSync(
  rows,
  words
    .map((word, i) => JSON.stringify({ prompt: `the ${word} is`, completion: i % 2 ? ' red' : ' new' }))
    .join('\n'),
);

function run(output: string, train: object = {}) {
  return resolveRunConfig(
    {
      model: { path: 'fixtures/models/llama' },
      data: { task: 'prompt', train: rows, dev: rows, test: rows, maxLength: 32 },
      train: {
        steps: 40,
        batchSize: 4,
        learningRate: 5e-2,
        warmup: 0,
        evalEvery: 20,
        checkpointEvery: 20,
        sample: false,
        ...train,
      },
      runtime: { threads: 1 },
      output: join(scratch, output),
    },
    { strategies },
  );
}

const config = run('whole');
const answers: { done: number; prompts: number }[] = [];
let test: Awaited<ReturnType<typeof trainRun>>['test'];
beforeAll(async () => {
  const onAnswers = (event: (typeof answers)[0]) => answers.push(event);
  ({ test } = await trainRun(config, { strategies, reporters: [{ onAnswers }] }));
});

it('ends with the metrics of generated answers, of the best adapter on test, in result.json', async () => {
  expect(new Set(answers.map(({ prompts }) => prompts))).toEqual(new Set([words.length]));
  expect(answers[0]!.done).toBe(0);
  expect(answers.at(-1)!.done).toBe(words.length);
  const answered: typeof answers = [];
  const { metrics } = await evaluateRun(config, {
    adapter: join(config.output, 'best'),
    split: 'test',
    onAnswers: (event) => answered.push(event),
  });
  expect(answered).toEqual(answers);
  // Two classes of answers, learnt by heart: the check is not of zeros.
  expect(metrics.accuracy).toBeGreaterThan(0.4);
  expect(test!.best.metrics.accuracy).toBe(metrics.accuracy);
  const written = JSON.parse(readFileSync(join(config.output, 'result.json'), 'utf8'));
  expect(written.test.best.metrics.accuracy).toBe(metrics.accuracy);
  expect(written.dev.best.metrics).not.toHaveProperty('accuracy');
});

it('leaves them to eval with train.generated: false', async () => {
  const without = await trainRun(run('without', { generated: false }), { strategies });
  expect(Object.keys(without.test!.best.metrics)).toEqual(['perplexity', 'tokenAccuracy']);
});

it('can be interrupted among them; resuming goes on there and ends as an uninterrupted run does', async () => {
  const interrupted = run('interrupted', { checkpointEvery: 0, sample: 'the cat is' });
  const abort = new AbortController();
  const reporter = {
    // The last event before the answers.
    onEval: ({ split, step }: { split: string; step: number }) => {
      if (split === 'test' && step === 40) abort.abort();
    },
  };
  await expect(
    trainRun(interrupted, { strategies, reporters: [reporter], signal: abort.signal }),
  ).rejects.toMatchObject({ code: 'INTERRUPTED' });
  const starts: number[] = [];
  const onRunStart = ({ startStep }: { startStep: number }) => starts.push(startStep);
  const resumed = await trainRun(interrupted, { strategies, resume: true, reporters: [{ onRunStart }] });
  expect(starts).toEqual([40]);
  expect(resumed.test).toEqual(test);
  expect(resumed.samples!.map(({ when }) => when)).toEqual(['before', 'after']);
  const lines = readFileSync(join(interrupted.output, 'metrics.jsonl'), 'utf8').trim().split('\n');
  const tests = lines.map((line) => JSON.parse(line)).filter(({ split }) => split === 'test');
  expect(tests.map(({ step }) => step)).toEqual([0, 40]);
});

it('does without them where no text can be generated, and says so', async () => {
  const model = join(scratch, 'model');
  cpSync('fixtures/models/llama', model, { recursive: true });
  // The file that generation prefers.
  writeFileSync(join(model, 'onnx/decoder_model_merged.onnx'), 'no model');
  const warnings: string[] = [];
  const scored = await trainRun(
    { ...run('no-text', { steps: 2 }), model: { ...run('no-text').model, path: model, file: undefined } },
    { strategies, reporters: [{ onWarning: (message) => warnings.push(message) }] },
  );
  expect(warnings.join()).toMatch(/no metrics of generated answers: /);
  expect(Object.keys(scored.test!.best.metrics)).toEqual(['perplexity', 'tokenAccuracy']);
});
