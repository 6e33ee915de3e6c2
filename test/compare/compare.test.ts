import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readPeft } from '../../src/adapters/peft.ts';
import { type CompareReporter, planComparison, runComparison } from '../../src/compare/compare.ts';
import { type CompareInput, compareInput } from '../../src/compare/file.ts';
import { inProcessRunner } from '../../src/compare/inProcessRunner.ts';
import type { CompareRecord } from '../../src/compare/record.ts';
import type { Failure } from '../../src/compare/runner.ts';
import { AloraError } from '../../src/errors.ts';
import * as strategies from '../../src/strategies.ts';
import { tasks } from '../../src/tasks/index.ts';
import type { RunResult } from '../../src/training/reporter.ts';
import { fixture, tinyComparison } from './comparisons.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-compare-'));
afterAll(() => rmSync(scratch, { recursive: true }));

interface Call {
  readonly record: CompareRecord;
  /** Runs that started, in order. */
  readonly started: readonly string[];
  readonly failures: readonly Failure[];
}

async function compare(
  output: string,
  changes: Record<string, unknown> = {},
  options: {
    readonly retry?: boolean;
    readonly signal?: AbortSignal;
    readonly reporter?: CompareReporter;
  } = {},
): Promise<Call> {
  const file = await compareInput(tinyComparison(output, changes) as unknown as CompareInput, strategies);
  const started: string[] = [];
  const failures: Failure[] = [];
  const record = await runComparison(file, {
    runner: inProcessRunner({ strategies, tasks: Object.keys(tasks) }),
    signal: options.signal,
    retry: options.retry,
    reporter: {
      ...options.reporter,
      onStart: ({ id }) => started.push(id),
      onEnd: (job, failure) => {
        if (failure) failures.push(failure);
        options.reporter?.onEnd?.(job, failure);
      },
    },
  });
  return { record, started, failures };
}

/** What does not depend on the clock. */
function numbers(record: CompareRecord) {
  return record.variants.map(({ runs, ...variant }) => ({
    ...variant,
    runs: runs.map(({ folder, values, budget, recounted, state }) => ({
      folder,
      values,
      budget,
      recounted,
      state,
    })),
  }));
}

const fourMethods = [
  'lora',
  'adalora',
  'sora',
  { strategy: 'alora', rounds: 2, ranksPerRound: 2, examples: 4 },
];

describe('a comparison of the four methods', () => {
  const output = join(scratch, 'four');
  const changes = { strategies: fourMethods };
  let first: Call;
  beforeAll(async () => {
    first = await compare(output, changes);
  });

  it('runs every method with every seed, each in a run folder of its own', () => {
    expect(first.started).toHaveLength(8);
    expect(first.failures).toEqual([]);
    for (const id of first.started) {
      const files = readdirSync(join(output, id));
      for (const name of ['run.yaml', 'metrics.jsonl', 'result.json', 'adapter', 'best'])
        expect(files).toContain(name);
      const [, strategy, seed] = /^(\w+)-[0-9a-f]{8}\/seed-(\d+)$/.exec(id)!;
      const yaml = readFileSync(join(output, id, 'run.yaml'), 'utf8');
      expect(yaml).toMatch(new RegExp(`^ {2}strategy: ${strategy}$`, 'm'));
      expect(yaml).toMatch(new RegExp(`^ {2}seed: ${seed}$`, 'm'));
    }
  });

  it('runs nothing the second time and leaves every file as it is', async () => {
    const times = () =>
      readdirSync(output, { recursive: true, encoding: 'utf8' })
        .sort()
        .map((path) => [path, statSync(join(output, path)).mtimeMs]);
    const before = times().filter(([path]) => path !== '.');
    const second = await compare(output, changes);
    expect(second.started).toEqual([]);
    expect(second.record).toEqual(first.record);
    expect(times()).toEqual(before);
  });

  it('keeps every method within 1 % of the budget, recounted from the saved tensors', () => {
    for (const { method, runs, plan } of first.record.variants)
      for (const run of runs) {
        const cost = new Map(plan.modules.map((module) => [module.name, module.costOfOneRank]));
        const saved = readPeft(join(output, run.folder, 'adapter'));
        let counted = 0;
        for (const [name, weights] of saved.modules) counted += weights.rank * cost.get(name)!;
        expect(run.recounted!.adapter).toBe(counted);
        expect(counted).toBeLessThanOrEqual(plan.budget.target);
        // ALoRA moves ranks, of unequal cost here, and may end below.
        const least = first.record.methods[method]!.strategy === 'alora' ? 0.95 : 0.99;
        expect(counted).toBeGreaterThanOrEqual(least * plan.budget.target);
      }
    const budget = first.record.checks.find(({ name }) => name === 'Budget')!;
    expect(budget.detail).toMatch(/below 99 %: alora ends with 9\d\.\d % of it/);
  });

  it('treats all alike: step by step the same tokens and labels for a seed, checked and recorded', () => {
    expect(first.record.checks.map(({ name, state }) => `${name} ${state}`)).toEqual([
      'Budget ok',
      'Recount ok',
      'Steps ok',
      'Data order ok',
      'Evaluation ok',
      'Start ok',
      'Seeds ok',
    ]);
    const order = (folder: string) =>
      readFileSync(join(output, folder, 'metrics.jsonl'), 'utf8')
        .split('\n')
        .filter((line) => line.includes('"event":"step"'))
        .map((line) => JSON.parse(line) as { step: number; tokens: number; labels: number })
        .map(({ step, tokens, labels }) => `${step} ${tokens} ${labels}`)
        .join('\n');
    for (const seed of [0, 1]) {
      const orders = first.record.variants.map(({ runs }) => order(runs[seed]!.folder));
      expect(orders[0]!.split('\n')).toHaveLength(8);
      expect(new Set(orders).size).toBe(1);
    }
  });

  it('finds out where treatment differed', async () => {
    const copy = join(scratch, 'tampered');
    cpSync(output, copy, { recursive: true });
    const folder = first.record.variants[2]!.runs[1]!.folder;
    const metrics = join(copy, folder, 'metrics.jsonl');
    writeFileSync(metrics, readFileSync(metrics, 'utf8').replace(/"tokens":\d+/, '"tokens":1'));
    const result = join(copy, folder, 'result.json');
    const changed = JSON.parse(readFileSync(result, 'utf8')) as RunResult & { budget: { final: object } };
    writeFileSync(
      result,
      JSON.stringify({
        ...changed,
        steps: 7,
        budget: { ...changed.budget, final: { parameters: 99_999, ranks: 9 } },
      }),
    );
    const { record } = await compare(copy, changes);
    const failed = record.checks.filter(({ state }) => state === 'failed');
    expect(failed.map(({ name }) => name)).toEqual(['Budget', 'Recount', 'Steps', 'Data order']);
    expect(failed[3]!.detail).toContain('lora and sora (seed 1)');
  });

  it('runs again only what a change touches', async () => {
    const copy = join(scratch, 'changed');
    cpSync(output, copy, { recursive: true });
    const more = await compare(copy, {
      ...changes,
      strategies: [
        ...fourMethods.slice(0, 3),
        { strategy: 'alora', rounds: 1, ranksPerRound: 2, examples: 4 },
      ],
      seeds: [0, 2],
    });
    const methods = more.started.map((id) => id.replace(/-[0-9a-f]{8}/, ''));
    expect(methods).toEqual(['lora/seed-2', 'adalora/seed-2', 'sora/seed-2', 'alora/seed-0', 'alora/seed-2']);
  });

  it('writes a row a run as CSV', () => {
    const rows = readFileSync(join(output, 'compare.csv'), 'utf8').trim().split('\n');
    expect(rows).toHaveLength(9);
    expect(rows[0]).toMatch(/^method,strategy,seed,state,.*dev\.loss/);
    expect(rows.at(-1)).toMatch(/^alora,alora,1,finished/);
  });
});

describe('interruption', () => {
  it('ends with the numbers of an uninterrupted comparison, wherever it stopped', async () => {
    // The second is a third party's, by one line in the file.
    const pair = { strategies: [fourMethods[3], fixture('rslora-strategy/index.js')] };
    const whole = await compare(join(scratch, 'whole'), pair);
    expect(whole.record.methods.map(({ label }) => label)).toEqual(['alora', 'rslora']);
    const output = join(scratch, 'stopped');
    let steps = 0;
    for (const stopAt of [3, 13, 21]) {
      const abort = new AbortController();
      const error = await compare(output, pair, {
        signal: abort.signal,
        reporter: { onStep: () => ++steps === stopAt && abort.abort() },
      }).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ kind: 'interrupted' });
    }
    const { record, failures } = await compare(output, pair);
    expect(failures).toEqual([]);
    expect(numbers(record)).toEqual(numbers(whole.record));
  });
});

describe('runs that fail', () => {
  const diverging = { strategies: ['lora', 'sora'] };
  it('are shown as such, never averaged, and a diverged one is not run again unless asked', async () => {
    const output = join(scratch, 'diverging');
    const grid = { grid: { 'train.learningRate': [1e-3, 1e30] } };
    const { record, failures, started } = await compare(output, {
      ...diverging,
      ...grid,
    });
    expect(started).toHaveLength(8);
    expect(failures.map(({ kind }) => kind)).toEqual(Array(4).fill('diverged'));
    const [good, bad] = [record.variants[0]!, record.variants[2]!];
    expect(good.summary['dev.loss']).toMatchObject({ n: 2 });
    expect(bad.runs.map(({ state, failure }) => [state, failure?.kind])).toEqual([
      ['failed', 'diverged'],
      ['failed', 'diverged'],
    ]);
    expect(bad.summary).toEqual({});
    expect(record.checks.find(({ name }) => name === 'Seeds')!.detail).toContain(
      'lora at train.learningRate 1e+30 lacks seed 0, 1',
    );
    expect((await compare(output, { ...diverging, ...grid })).started).toEqual([]);
    expect((await compare(output, { ...diverging, ...grid }, { retry: true })).started).toHaveLength(4);
  });

  it('do not start where a method would not spend the budget', async () => {
    const output = join(scratch, 'refused');
    const error = await compare(output, {
      strategies: ['lora', { strategy: 'sora', threshold: 1e-3 }],
    }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(AloraError);
    expect(error).toMatchObject({ kind: 'config', code: 'COMPARE_BUDGET' });
    expect((error as AloraError).details.got).toMatch(/^\d+ parameters final \(peak \d+/);
    expect(() => statSync(output)).toThrow();
  });
});

describe('a search', () => {
  it('finds a rate for each method on dev, keeps its trials apart, and is part of the record', async () => {
    const output = join(scratch, 'searched');
    const changes = {
      strategies: ['lora', 'sora'],
      data: { test: join(fixture('traces'), 'dev.jsonl'), maxRows: { dev: 8, test: 8 } },
      search: { 'train.learningRate': [1e-6, 2e-2, 1e30] },
    };
    const { record, started } = await compare(output, changes);
    expect(started.filter((id) => id.startsWith('search/'))).toHaveLength(6);
    expect(started.filter((id) => !id.startsWith('search/'))).toHaveLength(4);
    const files = readdirSync(join(output, 'search'), { recursive: true, encoding: 'utf8' });
    expect(files.filter((path) => path.endsWith('result.json'))).toEqual([]);
    expect(files.filter((path) => path.endsWith('search.json'))).toHaveLength(4);
    for (const { search } of record.variants) {
      expect(search!.chosen).toEqual({ 'train.learningRate': 2e-2 });
      expect(search!.trials[2]).toMatchObject({ devLoss: null, failure: { kind: 'diverged' } });
      // The test set decides nothing: a trial has none.
      expect(readFileSync(join(output, search!.trials[0]!.folder, 'run.yaml'), 'utf8')).not.toContain(
        ' test: ../',
      );
    }
    expect(record.learningRate).toBeNull();
    expect((await compare(output, changes)).started).toEqual([]);
  });
});

describe('a plan', () => {
  it('says what would run and writes nothing', async () => {
    const output = join(scratch, 'planned');
    const file = await compareInput(
      tinyComparison(output, {
        baseline: 'alora',
        grid: { 'budget.rank': [1, 2] },
      }) as unknown as CompareInput,
      strategies,
    );
    const plan = await planComparison(file);
    expect(plan.jobs).toHaveLength(8);
    expect(plan.plans.map(({ budget }) => budget.target)).toEqual([928, 928, 1856, 1856]);
    expect(plan.baseline).toBe('alora');
    expect(() => statSync(output)).toThrow();
  });
});
