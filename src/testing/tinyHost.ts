import type { AdapterLayout, AdapterSet } from '../adapters/adapterSet.ts';
import type { TargetModule } from '../adapters/module.ts';
import { parameterInput } from '../adapters/rewriter.ts';
import type {
  AdapterScheduler,
  AdapterStrategy,
  AllocationReport,
  Budget,
  GateSetting,
  HostTrainer,
  Json,
  RankPlan,
} from '../adapters/strategy.ts';
import { randomStream } from '../random.ts';
import { adamWStep, clipGradients, gradientNorm } from '../training/adamw.ts';
import {
  openTinyModel,
  sliceRows,
  type TinyBatch,
  type TinyModel,
  tinyModules,
  tinyRows,
} from './tinyModel.ts';

const batchSize = 8;
const stepsPerEpoch = 8;
const rows = tinyRows(batchSize * stepsPerEpoch, 'train');
const devRows = tinyRows(24, 'dev');

/** A run of the tiny model between two steps, as JSON would carry it. */
export interface TinyCheckpoint {
  readonly step: number;
  readonly heldBackBatches: number;
  readonly layout: AdapterLayout;
  readonly arrays: Readonly<Record<'values' | 'firstMoments' | 'secondMoments' | 'steps', readonly number[]>>;
  readonly scheduler: Json;
}

/** A whole host in memory: AdamW at a constant rate on the tiny model, rows in order. */
export interface TinyRun {
  readonly model: TinyModel;
  readonly adapters: AdapterSet;
  readonly host: HostTrainer;
  readonly scheduler: AdapterScheduler | undefined;
  readonly plan: RankPlan;
  readonly events: AllocationReport[];
  readonly losses: number[];
  /** Trains up to and including this step; after the last one `finish` is called. */
  trainTo(step: number): Promise<void>;
  devLoss(): Promise<number>;
  save(): TinyCheckpoint;
  restore(checkpoint: TinyCheckpoint): void;
  close(): Promise<void>;
}

export interface TinyRunOptions {
  readonly totalSteps: number;
  readonly budget: Budget;
  readonly seed?: number;
  readonly alpha?: number;
}

export async function openTinyRun<O>(
  strategy: AdapterStrategy<O>,
  options: O,
  { totalSteps, budget, seed = 0, alpha }: TinyRunOptions,
): Promise<TinyRun> {
  const model = await openTinyModel(strategy, budget, options, alpha === undefined ? {} : { alpha });
  const plan = strategy.plan(tinyModules, budget, options, { totalSteps, stepsPerEpoch });
  const adapters = model.arena(plan.initial, seed);
  const scheduler = strategy.scheduler?.(
    { totalSteps, stepsPerEpoch, modules: tinyModules, budget, plan, seed },
    options,
  );
  const groups = strategy.groups?.(options) ?? {};
  const events: AllocationReport[] = [];
  const losses: number[] = [];
  let step = 0;
  let heldBackBatches = 0;
  let dev = devRows;

  const current = (module: number, gate: Float32Array) => {
    const live = adapters.live(tinyModules[module]!);
    return gate.map((value, i) => (live[i] ? value : 0));
  };
  const under =
    ({ on, except }: GateSetting) =>
    (module: number, gate: Float32Array) => {
      const flipped = new Set(except.filter(([of]) => of === module).map(([, rank]) => rank));
      return current(module, gate).map((value, i) => ((on === 'all') === flipped.has(i) ? 0 : value));
    };

  const host: HostTrainer = {
    get step() {
      return step;
    },
    totalSteps,
    stepsPerEpoch,
    adapters,
    random: (...keys) => randomStream(seed, 'strategy', ...keys),
    async losses(settings) {
      const results: number[] = [];
      for (const setting of settings) results.push((await model.run(adapters, dev, under(setting))).loss);
      return Float64Array.from(results);
    },
    async gateGradients(on, data) {
      const batch =
        data === 'dev' ? dev : batchAt(stepsPerEpoch / 2 + (heldBackBatches++ % (stepsPerEpoch / 2)));
      const gates =
        on === 'current'
          ? current
          : (_: number, gate: Float32Array) => new Float32Array(gate.length).fill(on === 'all' ? 1 : 0);
      const { gradients } = await model.run(adapters, batch, gates);
      return tinyModules.map((module) => Float64Array.from(gradients.get(parameterInput(module, 'gate'))!));
    },
    prune: (module, ranks) => adapters.prune(module, ranks),
    grow: (module, count) => adapters.grow(module, count),
    devBatch(examples) {
      const size = Math.min(examples, devRows.targets.length);
      dev = sliceRows(devRows, 0, size);
      return size;
    },
    log: (event) => {
      events.push(event);
    },
  };

  async function trainStep(): Promise<void> {
    const held = (scheduler?.heldBackShare?.() ?? 0) > 0;
    const result = await model.run(adapters, batchAt(step % (held ? stepsPerEpoch / 2 : stepsPerEpoch)));
    adapters.gradients.fill(0);
    for (const slot of adapters.slots) {
      const gradient = slot.spec.trained && result.gradients.get(parameterInput(slot.module, slot.spec.role));
      if (gradient) adapters.view('gradients', slot).set(gradient);
    }
    clipGradients(adapters, gradientNorm(adapters), 1);
    await scheduler?.beforeStep?.(host);
    adamWStep(adapters, 1, { learningRate: 1e-2, weightDecay: 0, groups });
    step++;
    losses.push(result.loss);
    await scheduler?.afterStep(host);
    if (step === totalSteps) await scheduler?.finish?.(host);
  }

  return {
    model,
    adapters,
    host,
    scheduler,
    plan,
    events,
    losses,
    async trainTo(last) {
      while (step < last) await trainStep();
    },
    async devLoss() {
      return (await model.run(adapters, devRows, current)).loss;
    },
    save: () => ({
      step,
      heldBackBatches,
      layout: adapters.saveLayout(),
      arrays: {
        values: [...adapters.values],
        firstMoments: [...adapters.firstMoments],
        secondMoments: [...adapters.secondMoments],
        steps: [...adapters.steps],
      },
      scheduler: scheduler?.save() ?? null,
    }),
    restore(checkpoint) {
      ({ step, heldBackBatches } = checkpoint);
      adapters.restoreLayout(checkpoint.layout);
      for (const name of ['values', 'firstMoments', 'secondMoments', 'steps'] as const)
        adapters[name].set(checkpoint.arrays[name]);
      scheduler?.restore(checkpoint.scheduler);
    },
    close: () => model.close(),
  };
}

function batchAt(index: number): TinyBatch {
  return sliceRows(rows, index * batchSize, batchSize);
}

/** All rows that the tiny model trains on. */
export const trainingRows = rows;

/** The ranks of every module, for messages and comparisons. */
export function ranksOf(adapters: AdapterSet): Record<string, number> {
  return Object.fromEntries(tinyModules.map((module: TargetModule) => [module.name, adapters.rank(module)]));
}
