import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import * as strategies from '../../src/strategies.ts';
import { type Batch, collate } from '../../src/tasks/collate.ts';
import type { Example } from '../../src/tasks/task.ts';
import { type Assembly, assemble, openModel } from '../../src/training/assemble.ts';
import { evaluateSplit, evaluationBatches } from '../../src/training/evaluation.ts';
import { StepBatches } from '../../src/training/stepBatches.ts';
import { tinyRun } from './runs.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-parts-'));
afterAll(() => rmSync(scratch, { recursive: true }));
const fixtures = new URL('../../fixtures/', import.meta.url).pathname;

const lengths = [5, 30, 4, 17, 29, 6, 16, 5];

/** Rows of unequal lengths; all but the first three tokens are trained, or the row has a class. */
function examples(kind: Example['kind']): Example[] {
  return lengths.map((length, row) => {
    const ids = Array.from({ length }, (_, t) => 5 + ((7 * t + 11 * row) % 60));
    const next = ids.map((_, t) => (t < 2 || t === length - 1 ? -1 : ids[t + 1]!));
    return {
      kind,
      ids,
      targets: kind === 'sequence' ? [row % 3] : next,
      source: { file: 'rows', line: row },
    };
  });
}

function open(model: string, options: { pooling?: string; dropout: number }): Assembly {
  const config = tinyRun('unused', {
    model: { path: model, ...(options.pooling ? { pooling: options.pooling } : {}) },
    data: options.pooling ? { task: 'classification' } : { task: 'prompt' },
    adapter: { strategy: 'lora', dropout: options.dropout },
  });
  const run = assemble(openModel(config.model), config, {
    strategies,
    length: { totalSteps: 10, stepsPerEpoch: 10 },
    ...(options.pooling ? { classes: 3 } : {}),
  });
  // Away from zero: B and a new head too.
  run.adapters.values.forEach((_, i) => {
    run.adapters.values[i] = 0.3 * Math.sin(i);
  });
  return run;
}

async function gradients(run: Assembly, parts: readonly Batch[], probability: number) {
  run.adapters.gradients.fill(0);
  const labels = parts.reduce((sum, part) => sum + part.labels, 0);
  let loss = 0;
  for (const [i, batch] of parts.entries()) {
    const dropout = { probability, seed: 3, step: 7, examples: batch.examples };
    const losses = await run.runtime.step(batch, { loss: 1 / labels, penalty: i === 0 ? 1 : 0 }, dropout);
    for (const value of losses) loss += value / labels;
  }
  return { loss, gradients: Float32Array.from(run.adapters.gradients) };
}

function encoderDecoder(): string {
  const folder = join(scratch, 't5');
  for (const part of ['config.json', 'onnx'])
    cpSync(join(fixtures, 'backbones/t5', part), join(folder, part), { recursive: true });
  for (const file of ['tokenizer.json', 'tokenizer_config.json'])
    cpSync(join(fixtures, 'models/opt', file), join(folder, file));
  return folder;
}

const cases: [string, () => string, { pooling?: string; dropout: number }][] = [
  ['a decoder', () => join(fixtures, 'models/llama'), { dropout: 0 }],
  ['a decoder with learned positions and dropout', () => join(fixtures, 'models/gpt2'), { dropout: 0.3 }],
  ['an encoder-decoder with dropout', encoderDecoder, { dropout: 0.3 }],
  ['an encoder, mean pooling', () => join(fixtures, 'backbones/minilm'), { pooling: 'mean', dropout: 0 }],
  ['an encoder, first token', () => join(fixtures, 'backbones/minilm'), { pooling: 'cls', dropout: 0 }],
];

describe('a step in parts by length', () => {
  it.each(cases)('%s: has the loss and the gradient of the padded batch', async (_, folder, options) => {
    const run = open(folder(), options);
    const train = examples(options.pooling ? 'sequence' : 'token');
    const whole = collate(train, { padId: 0 });
    // A run that costs 8 tokens: these rows are short.
    const config = { train: { batchSize: 8, accumulate: 1, seed: 0 }, data: { shuffle: false } };
    const batches = new StepBatches(config as never, { train, padId: 0 }, undefined, 8);
    const parts = batches.of(1);
    expect(parts.length).toBeGreaterThan(2);
    expect(parts.flatMap((part) => part.examples).sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    const tokens = (list: readonly Batch[]) => list.reduce((sum, { size, length }) => sum + size * length, 0);
    expect(tokens(parts)).toBeLessThan(0.6 * tokens([whole]));

    const padded = await gradients(run, [whole], options.dropout);
    const parted = await gradients(run, parts, options.dropout);
    await run.close();
    expect(parted.loss).toBeCloseTo(padded.loss, 5);
    const largest = padded.gradients.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    expect(largest).toBeGreaterThan(1e-3);
    const apart = padded.gradients.reduce(
      (most, value, i) => Math.max(most, Math.abs(value - parted.gradients[i]!)),
      0,
    );
    // float32 sums over some hundred tokens in another order.
    expect(apart / largest).toBeLessThan(5e-6);
  });

  it('deals out all rows of an accumulated step, as it does those held back', () => {
    const train = examples('token');
    const config = { train: { batchSize: 2, accumulate: 4, seed: 0 }, data: { shuffle: false } };
    const scheduler = { heldBackShare: () => 0.5 };
    const all = new StepBatches(config as never, { train, padId: 0 }, undefined, 1e9).of(1);
    expect(all.map(({ length }) => length)).toEqual([30, 17, 6, 5]);
    const half = new StepBatches(config as never, { train, padId: 0 }, scheduler as never, 64);
    const rows = [...half.of(1), ...half.heldBack(0), ...half.heldBack(1)].flatMap((part) => part.examples);
    expect(rows.sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  it('follows the share that is held back within an epoch, and refuses to divide one row', () => {
    const train = examples('token');
    const config = { train: { batchSize: 1, accumulate: 1, seed: 0 }, data: { shuffle: true } };
    let share = 0.25;
    const scheduler = { heldBackShare: () => share };
    const batches = new StepBatches(config as never, { train, padId: 0 }, scheduler as never, 1e9);
    batches.of(1);
    share = 0.75;
    const epoch = [1, 2].flatMap((step) => batches.of(step)).flatMap((part) => part.examples);
    expect(new Set(epoch).size).toBe(2);
    const held = Array.from({ length: 6 }, (_, at) => batches.heldBack(at)).flat();
    expect(held.flatMap((part) => part.examples).filter((row) => epoch.includes(row))).toEqual([]);
    const one = new StepBatches(
      config as never,
      { train: train.slice(0, 1), padId: 0 },
      scheduler as never,
      1e9,
    );
    expect(() => one.of(1)).toThrow(expect.objectContaining({ code: 'DATA_ONE_ROW', exitCode: 4 }));
  });
});

describe('an evaluation in parts by length', () => {
  it('has loss and metrics of batches in file order', async () => {
    const run = open(join(fixtures, 'models/llama'), { dropout: 0 });
    const train = examples('token');
    const task = { metrics: ['perplexity', 'tokenAccuracy', 'accuracy'] as const };
    const inOrder = [0, 4].map((at) => collate(train.slice(at, at + 4), { padId: 0 }));
    const parts = evaluationBatches(train, { batchSize: 4, padId: 0, tokensOfRun: 8 });
    expect(parts.length).toBeGreaterThan(2);
    const expected = await evaluateSplit(run.runtime, inOrder, task);
    const found = await evaluateSplit(run.runtime, parts, task);
    await run.close();
    expect(found.loss).toBeCloseTo(expected.loss, 5);
    expect(found.metrics.tokenAccuracy).toBe(expected.metrics.tokenAccuracy);
    expect(found.metrics.accuracy).toBe(expected.metrics.accuracy);
  });
});
