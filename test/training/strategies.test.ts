import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AdapterStrategy } from 'onnx-alora/strategy';
import { afterAll, describe, expect, it } from 'vitest';
import rslora from '../../fixtures/rslora-strategy/index.js';
import { readPeft } from '../../src/adapters/peft.ts';
import type { AloraError } from '../../src/errors.ts';
import * as shipped from '../../src/strategies.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';
import type { AllocationEvent, EvalEvent, Reporter } from '../../src/training/reporter.ts';
import { trainRun } from '../../src/training/train.ts';
import { tinyRun } from './runs.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-strategies-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const strategies = { ...shipped, rslora } as unknown as Readonly<Record<string, AdapterStrategy<unknown>>>;

function configFor(name: string, adapter: Record<string, unknown>, train: Record<string, unknown> = {}) {
  const config = tinyRun(join(scratch, name), {
    budget: { rank: 4 },
    train: { steps: 16, evalEvery: 8, checkpointEvery: 5, ...train },
  });
  // As a run file of the strategy would read: its options stand beside the common keys.
  return { ...config, adapter: { ...config.adapter, ...adapter } } as typeof config;
}

async function recorded(name: string, adapter: Record<string, unknown>, train: Record<string, unknown> = {}) {
  const allocations: AllocationEvent[] = [];
  const evals: EvalEvent[] = [];
  const config = configFor(name, withDefaults(adapter), train);
  const result = await trainRun(config, {
    strategies,
    reporters: [{ onAllocation: (event) => allocations.push(event), onEval: (event) => evals.push(event) }],
  });
  return { config, result, allocations, evals };
}

function withDefaults({
  strategy,
  alpha,
  initFrom,
  modulesToSave = [],
  ...own
}: Record<string, unknown>): Record<string, unknown> {
  const options = strategies[strategy as string]!.options.parse(own) as Record<string, unknown>;
  return { strategy, alpha, initFrom, modulesToSave, ...options };
}

const rows: [string, Record<string, unknown>][] = [
  ['lora', { strategy: 'lora' }],
  ['adalora', { strategy: 'adalora' }],
  ['sora', { strategy: 'sora' }],
  ['alora', { strategy: 'alora', rounds: 3, examples: 6 }],
  ['alora-screened', { strategy: 'alora', rounds: 2, scorer: 'screened', examples: 6 }],
  ['alora-dnas', { strategy: 'alora', rounds: 2, scorer: 'dnas', examples: 6 }],
  ['alora-sensitivity', { strategy: 'alora', rounds: 2, scorer: 'sensitivity', examples: 6 }],
  ['rslora', { strategy: 'rslora', alpha: 8 }],
];

type Recorded = ReturnType<typeof recorded>;
const runs = new Map<string, Recorded>();
/** The run of a row, made for whichever test asks first. */
function whole(name: string): Recorded {
  const made = runs.get(name) ?? recorded(name, new Map(rows).get(name)!);
  runs.set(name, made);
  return made;
}

describe('a run by changing one word', () => {
  it.each(rows)('%s', async (name, adapter) => {
    const { config, result, allocations, evals } = await whole(name);
    const { final, target } = result.budget;
    expect(final.parameters).toBeLessThanOrEqual(target);
    // ALoRA may lose what no module can take; everything else spends its budget.
    expect(final.parameters).toBeGreaterThanOrEqual((adapter.strategy === 'alora' ? 0.9 : 0.99) * target);
    expect(evals.at(-1)!.loss).toBeLessThan(evals[0]!.loss);
    if (!['lora', 'rslora'].includes(name)) {
      expect(allocations.length).toBeGreaterThan(0);
      expect(Object.keys(allocations.at(-1)!.ranks)).toHaveLength(14);
    }
    // What is saved is a plain adapter that scores as the last evaluation said.
    const scored = await evaluateRun(config, { adapter: join(config.output, 'adapter') });
    // Folded gates are rounded to float32 once more.
    expect(scored.loss / evals.at(-1)!.loss).toBeCloseTo(1, 5);
  });

  it('keeps the scale of a strategy that has one of its own', async () => {
    const { config } = await whole('rslora');
    const folder = join(config.output, 'adapter');
    // alpha / sqrt(r) = 8 / 2
    expect(readPeft(folder).modules.get('model.layers.0.self_attn.q_proj')!.scale).toBe(4);
  });
});

it('a strategy with a scale of its own goes on from its adapter where it ended', async () => {
  const { evals: before } = await recorded('scaled', { strategy: 'rslora', alpha: 8 }, { steps: 4 });
  const start = { strategy: 'rslora', initFrom: join(scratch, 'scaled', 'adapter') };
  const { evals } = await recorded('continued', start, { steps: 1 });
  // The file holds the factors themselves.
  expect(evals[0]!.loss / before.at(-1)!.loss).toBeCloseTo(1, 6);
});

it('a head that the adapter holds is trained on, never dropped in silence', async () => {
  const adapter = { strategy: 'lora', modulesToSave: ['lm_head'] };
  const { evals: before } = await recorded('headed', adapter, { steps: 4 });
  const initFrom = join(scratch, 'headed', 'adapter');
  await expect(recorded('headless', { strategy: 'lora', initFrom }, { steps: 1 })).rejects.toMatchObject({
    code: 'ADAPTER_SAVED_LAYER',
    exitCode: 3,
    details: { fix: 'Set adapter.modulesToSave: [lm_head].' },
  });
  const { evals } = await recorded('headed-on', { ...adapter, initFrom }, { steps: 1 });
  expect(evals[0]!.loss / before.at(-1)!.loss).toBeCloseTo(1, 6);
});

describe('a run that is killed', () => {
  const outcome = (folder: string) => ({
    weights: readFileSync(join(folder, 'adapter', 'adapter_model.safetensors')),
    metrics: readFileSync(join(folder, 'metrics.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => ({ ...JSON.parse(line), ms: 0, seconds: 0 })),
  });

  it.each([
    ['adalora', { strategy: 'adalora' }, 7],
    ['sora', { strategy: 'sora' }, 9],
    ['alora', { strategy: 'alora', rounds: 3, examples: 6 }, 8],
    ['alora-dnas', { strategy: 'alora', rounds: 2, scorer: 'dnas', examples: 6 }, 4],
    ['alora-sensitivity', { strategy: 'alora', rounds: 2, scorer: 'sensitivity', examples: 6 }, 11],
  ])('%s goes on bit for bit', async (name, adapter, at) => {
    const config = configFor(`${name}-stopped`, withDefaults(adapter));
    const abort = new AbortController();
    const stop: Reporter = { onStep: ({ step }) => step === at && abort.abort() };
    await expect(
      trainRun(config, { strategies, reporters: [stop], signal: abort.signal }),
    ).rejects.toMatchObject({ code: 'INTERRUPTED' });
    // Only the many settings of a round are too long to wait for.
    const checkpoint = join(config.output, `checkpoints/step-${String(at).padStart(6, '0')}`);
    expect(existsSync(checkpoint)).toBe(name !== 'alora');
    await trainRun(config, { strategies, resume: true });
    expect(outcome(config.output)).toEqual(outcome((await whole(name)).config.output));
  });

  it('in the middle of scoring ends the round where there are no other checkpoints', async () => {
    const config = configFor('no-checkpoints', withDefaults({ strategy: 'alora', rounds: 3, examples: 6 }), {
      checkpointEvery: 0,
    });
    const abort = new AbortController();
    let scored = 0;
    const stop: Reporter = {
      onStep: ({ step }) => step === 6 && abort.abort(),
      onAllocation: ({ step }) => {
        scored = step;
      },
    };
    await expect(
      trainRun(config, { strategies, reporters: [stop], signal: abort.signal }),
    ).rejects.toMatchObject({ code: 'INTERRUPTED' });
    // Else the run was not interrupted in a round.
    expect(scored).toBe(6);
    expect(existsSync(join(config.output, 'checkpoints/step-000006'))).toBe(true);
    await trainRun(config, { strategies, resume: true });
    expect(outcome(config.output)).toEqual(outcome(join(scratch, 'alora')));
  });

  it('in the middle of scoring repeats the round', async () => {
    const adapter = { strategy: 'alora', rounds: 3, examples: 6 };
    const config = configFor('killed', withDefaults(adapter));
    let asked = 0;
    const { alora } = shipped;
    // As a kill would end it: within the losses of the second round, without a word.
    const killed: AdapterStrategy<unknown> = {
      ...(alora as AdapterStrategy<unknown>),
      scheduler(run, options) {
        const scheduler = (alora as AdapterStrategy<unknown>).scheduler!(run, options);
        return {
          ...scheduler,
          afterStep: (host) =>
            scheduler.afterStep(
              Object.assign(Object.create(host), {
                async losses(settings: Parameters<typeof host.losses>[0]) {
                  if (settings.length > 10 && ++asked === 2) {
                    await host.losses(settings.slice(0, 10));
                    throw new Error('killed');
                  }
                  return host.losses(settings);
                },
              }),
            ),
        };
      },
    };
    await expect(trainRun(config, { strategies: { ...strategies, alora: killed } })).rejects.toThrow(
      'killed',
    );
    expect(existsSync(join(config.output, 'result.json'))).toBe(false);
    await trainRun(config, { strategies, resume: true });
    expect(outcome(config.output)).toEqual(outcome((await whole('alora')).config.output));
  });
});

it('a schedule that does not fit is refused before anything is written', async () => {
  const config = configFor(
    'misfit',
    withDefaults({ strategy: 'alora', firstRoundAfter: 10, roundEvery: 5, rounds: 4 }),
  );
  const error = await trainRun(config, { strategies }).catch((reason: AloraError) => reason);
  expect(error).toMatchObject({ code: 'SCHEDULE_DOES_NOT_FIT', exitCode: 3 });
  expect(existsSync(config.output)).toBe(false);
});

it('alora without dev rows, which it scores on, is refused before anything is written', async () => {
  const config = configFor('no-dev', withDefaults({ strategy: 'alora', rounds: 1 }));
  const { dev: _dev, ...data } = config.data;
  await expect(trainRun({ ...config, data }, { strategies })).rejects.toMatchObject({
    code: 'SPLIT_MISSING',
    exitCode: 3,
  });
  expect(existsSync(config.output)).toBe(false);
});

it('a dev set smaller than the batch that scores is used whole', async () => {
  const adapter = { strategy: 'alora', rounds: 1, examples: 500, scorer: 'taylor' };
  const { allocations, config } = await recorded('all-rows', adapter, { steps: 2 });
  const scores = JSON.parse(readFileSync(join(config.output, allocations[0]!.scores!), 'utf8'));
  expect(scores.examples).toBe(32);
});
