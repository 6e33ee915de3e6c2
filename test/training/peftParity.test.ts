import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import * as strategies from '../../src/strategies.ts';
import type { StepEvent } from '../../src/training/reporter.ts';
import { trainRun } from '../../src/training/train.ts';

/**
 * Twelve steps of training against PyTorch + PEFT from the same initial adapter, rows and schedule
 * (fixtures/traces/make_traces.py). A float64 run of PyTorch differs from its float32 run by 1e-6.
 */
const traces = new URL('../../fixtures/traces/', import.meta.url).pathname;
const models = new URL('../../fixtures/models/', import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-parity-'));
afterAll(() => rmSync(scratch, { recursive: true }));

interface Trace {
  readonly model: string;
  readonly run: Record<string, unknown> & {
    readonly task: string;
    readonly modulesToSave?: readonly string[];
  };
  readonly losses: readonly number[];
  readonly gradNorms: readonly number[];
  readonly learningRates: readonly number[];
  readonly labels: readonly number[];
}

const names = readdirSync(traces).filter(
  (name) => existsSync(join(traces, name, 'trace.json')) && !['adalora', 'sora'].includes(name),
);

/** Largest relative difference of two series. */
function difference(ours: readonly number[], theirs: readonly number[]): number {
  return Math.max(...theirs.map((value, i) => Math.abs(ours[i]! - value) / Math.max(Math.abs(value), 1e-12)));
}

describe('twelve steps as PyTorch and PEFT make them', () => {
  it.each(names)('%s', async (name) => {
    const trace = JSON.parse(readFileSync(join(traces, name, 'trace.json'), 'utf8')) as Trace;
    const { run } = trace;
    // PEFT adds both usual names of a head, of which each model has one.
    const modulesToSave = [...new Set(run.modulesToSave ?? [])].filter((head) => head !== 'score');
    const config = resolveRunConfig(
      {
        model: { path: join(models, trace.model), targets: run.targets },
        data: {
          task: run.task,
          train: join(traces, run.task === 'text' ? 'text.jsonl' : 'classification.jsonl'),
          maxLength: run.maxLength,
          shuffle: false,
        },
        adapter: { strategy: 'lora', initFrom: join(traces, name, 'initial'), modulesToSave },
        train: {
          steps: run.steps,
          batchSize: run.batchSize,
          accumulate: run.accumulate,
          learningRate: run.learningRate,
          schedule: run.schedule,
          warmup: run.warmup,
          weightDecay: run.weightDecay,
          clip: run.clip,
          patience: 0,
        },
        output: join(scratch, name),
      },
      { strategies },
    );
    const steps: StepEvent[] = [];
    await trainRun(config, { strategies, reporters: [{ onStep: (event) => steps.push(event) }] });
    const column = (key: 'loss' | 'gradNorm' | 'learningRate' | 'labels') => steps.map((step) => step[key]);
    expect(column('labels')).toEqual(trace.labels);
    expect(difference(column('learningRate'), trace.learningRates)).toBeLessThan(1e-12);
    // 2e-4 is what the project promises; rounding alone gives some 1e-6.
    expect(difference(column('loss'), trace.losses)).toBeLessThan(2e-4);
    expect(difference(column('gradNorm'), trace.gradNorms)).toBeLessThan(1e-3);
  });
});
