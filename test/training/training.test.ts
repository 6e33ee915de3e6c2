import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readPeft } from '../../src/adapters/peft.ts';
import type { AdapterStrategy } from '../../src/adapters/strategy.ts';
import * as strategies from '../../src/strategies.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';
import type { EvalEvent, StepEvent } from '../../src/training/reporter.ts';
import { rateFactor, warmupSteps } from '../../src/training/schedule.ts';
import { trainRun } from '../../src/training/train.ts';
import { tinyRun } from './runs.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-training-'));
afterAll(() => rmSync(scratch, { recursive: true }));

async function recorded(name: string, changes: Parameters<typeof tinyRun>[1] = {}) {
  const steps: StepEvent[] = [];
  const evals: EvalEvent[] = [];
  const config = tinyRun(join(scratch, name), changes);
  const result = await trainRun(config, {
    strategies,
    reporters: [{ onStep: (event) => steps.push(event), onEval: (event) => evals.push(event) }],
  });
  return { steps, evals, result, config };
}

describe('learning-rate schedules', () => {
  const base = { totalSteps: 100, warmup: 0.06, schedule: 'linear' } as const;
  it('warm up from rate 0 over ceil(0.06 T) steps and end just above 0', () => {
    expect(warmupSteps(base)).toBe(6);
    expect([1, 2, 7, 8, 100].map((step) => rateFactor(step, base))).toEqual([0, 1 / 6, 1, 93 / 94, 1 / 94]);
  });
  it('cosine falls to a half at the middle; constant stays', () => {
    expect(rateFactor(7 + 47, { ...base, schedule: 'cosine' })).toBeCloseTo(0.5, 12);
    expect(rateFactor(100, { ...base, schedule: 'constant' })).toBe(1);
  });
  it('without warm-up starts at the peak', () => {
    expect(rateFactor(1, { ...base, warmup: 0 })).toBe(1);
  });
});

describe('a run', () => {
  it('evaluates at step 0, every evalEvery steps and at the last step', async () => {
    const { evals } = await recorded('evals', { train: { steps: 10 } });
    expect(evals.map(({ step }) => step)).toEqual([0, 4, 8, 10]);
    expect(evals.at(-1)!.loss).toBeLessThan(evals[0]!.loss);
  });

  it('accumulated micro-batches make the step of one big batch', async () => {
    const shuffle = { data: { shuffle: false } };
    const big = await recorded('big', { ...shuffle, train: { batchSize: 8 } });
    const small = await recorded('small', { ...shuffle, train: { batchSize: 2, accumulate: 4 } });
    big.steps.forEach((step, i) => {
      // The sums are the same numbers in another order: float32 rounding, grown over twelve steps.
      expect(small.steps[i]!.loss / step.loss).toBeCloseTo(1, 5);
      expect(small.steps[i]!.labels).toBe(step.labels);
    });
  });

  it('saves an adapter that scores as the last evaluation said', async () => {
    const { config, evals, result } = await recorded('saved', { adapter: { alpha: 6 } });
    const scored = await evaluateRun(config, { adapter: join(config.output, 'adapter') });
    // The file holds the factors themselves; only the batch order differs.
    expect(scored.loss / evals.at(-1)!.loss).toBeCloseTo(1, 6);
    const adapter = readPeft(join(config.output, 'adapter'));
    expect(adapter.modules.get('model.layers.0.self_attn.q_proj')).toMatchObject({ rank: 2, scale: 3 });
    expect(result.budget.final.parameters).toBe(result.budget.target);
  });

  it('stops early after `patience` evaluations without improvement and keeps the best', async () => {
    const { result } = await recorded('patience', {
      train: {
        steps: 60,
        learningRate: 0.5,
        clip: 0,
        evalEvery: 1,
        patience: 3,
        warmup: 0,
        schedule: 'constant',
      },
    });
    expect(result.stoppedEarly).toBe(true);
    expect(result.steps).toBe(result.bestStep + 3);
    expect(result.dev!.best.loss).toBeLessThanOrEqual(result.dev!.last.loss);
  });

  it('lets a strategy finish where it stops early too, before the adapter is saved and last evaluated', async () => {
    let finished = 0;
    const lora: AdapterStrategy<unknown> = {
      ...strategies.lora,
      scheduler: () => ({
        afterStep() {},
        // Without B an adapter does nothing.
        finish({ adapters }) {
          finished++;
          for (const module of adapters.modules) adapters.parameter(module, 'lora_B').fill(0);
        },
        save: () => null,
        restore() {},
      }),
    };
    const train = { steps: 60, learningRate: 0.5, clip: 0, evalEvery: 1, patience: 3, warmup: 0 };
    const config = tinyRun(join(scratch, 'finish'), { train: { ...train, schedule: 'constant' } });
    const result = await trainRun(config, { strategies: { ...strategies, lora } });
    expect(result.stoppedEarly).toBe(true);
    expect(finished).toBe(1);
    expect(result.dev!.last).toEqual(result.dev!.before);
    for (const module of readPeft(join(config.output, 'adapter')).modules.values())
      expect(module.B.every((value) => value === 0)).toBe(true);
  });

  it('stops with code 6 on a loss that is not finite and keeps the last good state', async () => {
    const output = join(scratch, 'diverged');
    const config = tinyRun(output, {
      train: { steps: 40, learningRate: 1e30, clip: 0, warmup: 0, evalEvery: 0, checkpointEvery: 1 },
    });
    await expect(trainRun(config, { strategies })).rejects.toMatchObject({
      code: 'TRAIN_DIVERGED',
      exitCode: 6,
    });
    expect(existsSync(join(output, 'result.json'))).toBe(false);
    for (const module of readPeft(join(output, 'best')).modules.values())
      expect(module.A.every(Number.isFinite)).toBe(true);
  });

  it('leaves no output folder when something is wrong before step 1', async () => {
    const output = join(scratch, 'none');
    const empty = join(scratch, 'empty.jsonl');
    writeFileSync(empty, '');
    await expect(trainRun(tinyRun(output, { data: { train: empty } }), { strategies })).rejects.toMatchObject(
      { exitCode: 4 },
    );
    expect(existsSync(output)).toBe(false);
  });

  it('leaves no output folder when the first forward pass fails', async () => {
    const output = join(scratch, 'vocabulary');
    const model = join(scratch, 'larger-tokenizer');
    cpSync(tinyRun(output).model.path, model, { recursive: true });
    const path = join(model, 'tokenizer.json');
    const tokenizer = JSON.parse(readFileSync(path, 'utf8'));
    // Every character becomes a token that the model's embedding does not have.
    for (const token of Object.keys(tokenizer.model.vocab)) tokenizer.model.vocab[token] += 5000;
    writeFileSync(path, JSON.stringify(tokenizer));
    await expect(trainRun(tinyRun(output, { model: { path: model } }), { strategies })).rejects.toMatchObject(
      {
        exitCode: 5,
      },
    );
    expect(existsSync(output)).toBe(false);
    // An empty folder of the user's stays, and stays empty.
    mkdirSync(output);
    const again = trainRun(tinyRun(output, { model: { path: model } }), { strategies });
    await expect(again).rejects.toMatchObject({ exitCode: 5 });
    expect(readdirSync(output)).toEqual([]);
  });

  it('trains without a dev set', async () => {
    const { result, config } = await recorded('nodev', { data: { dev: undefined } });
    expect(result.dev).toBeUndefined();
    expect(result.bestStep).toBe(result.steps);
    expect(readFileSync(join(config.output, 'best', 'adapter_model.safetensors'))).toEqual(
      readFileSync(join(config.output, 'adapter', 'adapter_model.safetensors')),
    );
  });
});
