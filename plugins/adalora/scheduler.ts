import {
  type AdapterScheduler,
  type AdapterView,
  type HostTrainer,
  type Json,
  noSensitivity,
  packFloats,
  type RunOutline,
  rowSensitivity,
  type Sensitivity,
  selectWithinBudget,
  type TargetModule,
  unpackFloats,
  updateSensitivity,
} from 'onnx-alora/strategy';
import { finalParameters } from './plan.ts';
import { averageShare, budgetAt, type MaskSchedule } from './schedule.ts';

export interface AllocatorOptions {
  readonly targetRank?: number | undefined;
  readonly beta1: number;
  readonly beta2: number;
}

const roles = ['gate', 'lora_A', 'lora_B'] as const;
type Averages = Readonly<Record<(typeof roles)[number], Sensitivity>>;

/** PEFT's RankAllocator (tuners/adalora/layer.py): averages each step, masks by schedule, keeps the last pattern. */
export function rankAllocator(
  run: RunOutline,
  schedule: MaskSchedule,
  options: AllocatorOptions,
): AdapterScheduler {
  const { beta1, beta2, targetRank } = options;
  let averages: Averages[] | undefined;
  let done = false;
  let rounds = 0;

  const costOf = (adapters: AdapterView, module: TargetModule) =>
    targetRank === undefined ? adapters.costOfRank(module) : 1;

  function target(initial: number): number {
    return targetRank === undefined
      ? finalParameters(run.budget, initial, averageShare(schedule))
      : targetRank * run.modules.length;
  }

  function averagesOf(adapters: AdapterView): Averages[] {
    averages ??= run.modules.map((module) => {
      const fresh = (role: string) => noSensitivity(adapters.parameter(module, role).length);
      return { gate: fresh('gate'), lora_A: fresh('lora_A'), lora_B: fresh('lora_B') };
    });
    return averages;
  }

  function observe(adapters: AdapterView): void {
    averagesOf(adapters).forEach((of, m) => {
      const module = run.modules[m]!;
      for (const role of roles)
        updateSensitivity(
          of[role],
          adapters.parameter(module, role),
          adapters.gradient(module, role),
          beta1,
          beta2,
        );
    });
  }

  function mask(host: HostTrainer, budget: number): void {
    const { adapters } = host;
    const of = averagesOf(adapters);
    const scores = run.modules.map((module, m) =>
      Array.from({ length: adapters.rank(module) }, (_, i) => tripletScore(of[m]!, i, module.in, module.out)),
    );
    const patterns = keptRanks(
      scores,
      run.modules.map((module) => costOf(adapters, module)),
      budget,
    );
    const pruned: { module: string; index: number; score: number }[] = [];
    const grown: Record<string, number> = {};
    run.modules.forEach((module, m) => {
      const before = adapters.live(module);
      patterns[m]!.forEach((live, index) => {
        if (before[index] && !live) pruned.push({ module: module.name, index, score: scores[m]![index]! });
        if (!before[index] && live) grown[module.name] = (grown[module.name] ?? 0) + 1;
      });
      adapters.setLive(module, patterns[m]!);
    });
    applyPattern(adapters, run.modules);
    if (pruned.length > 0 || Object.keys(grown).length > 0) host.log({ round: ++rounds, pruned, grown });
  }

  function lastMask(host: HostTrainer): void {
    const initial = initialBudget(host.adapters, run.modules, costOf);
    mask(host, target(initial));
    done = true;
    averages = undefined;
  }

  return {
    afterStep(host) {
      const { adapters } = host;
      if (done) return applyPattern(adapters, run.modules);
      const initial = initialBudget(adapters, run.modules, costOf);
      const { budget, phase } = budgetAt(host.step - 1, schedule, initial, target(initial));
      if (phase === 'last mask' || phase === 'final') return lastMask(host);
      observe(adapters);
      if (phase === 'mask') mask(host, budget);
    },
    // With tFinal 0 the last mask lies after the last step; a run cut short has not come to it.
    finish(host) {
      if (!done) lastMask(host);
    },
    settled: () => done,
    save: () => ({ done, rounds, averages: averages?.map(packAverages) ?? null }),
    restore(state) {
      const saved = state as unknown as SavedState;
      done = saved.done;
      rounds = saved.rounds;
      averages = saved.averages?.map(unpackAverages);
    },
  };
}

/** S = s(lambda) + mean s(row of A) + mean s(row of B), s = mean * deviation (AdaLoRA's triplet importance). */
export function tripletScore(of: Averages, rank: number, rowA: number, rowB: number): number {
  return (
    rowSensitivity(of.gate, rank, 1) +
    rowSensitivity(of.lora_A, rank, rowA) +
    rowSensitivity(of.lora_B, rank, rowB)
  );
}

/**
 * The ranks within `budget`, by score. Equal scores: the higher rank index goes first, then the lower module,
 * so exactly as many are masked as the budget asks for.
 */
export function keptRanks(
  scores: readonly (readonly number[])[],
  costs: readonly number[],
  budget: number,
): boolean[][] {
  const ranks = scores
    .flatMap((of, module) => of.map((score, index) => ({ module, index, score, cost: costs[module]! })))
    .sort((a, b) => a.index - b.index || b.module - a.module);
  const keep = selectWithinBudget(ranks, budget);
  const patterns = scores.map((of) => of.map(() => false));
  ranks.forEach(({ module, index }, i) => {
    patterns[module]![index] = keep[i]!;
  });
  return patterns;
}

function initialBudget(
  adapters: AdapterView,
  modules: readonly TargetModule[],
  cost: (adapters: AdapterView, module: TargetModule) => number,
): number {
  return modules.reduce((sum, module) => sum + adapters.rank(module) * cost(adapters, module), 0);
}

/** lambda = 0 outside the pattern. Rows of A and B stay, and lambda goes on training until the next mask. */
function applyPattern(adapters: AdapterView, modules: readonly TargetModule[]): void {
  for (const module of modules) {
    const gate = adapters.parameter(module, 'gate');
    adapters.live(module).forEach((live, i) => {
      if (!live) gate[i] = 0;
    });
  }
}

interface SavedState {
  readonly done: boolean;
  readonly rounds: number;
  readonly averages: readonly (readonly string[])[] | null;
}

function packAverages(of: Averages): Json {
  return roles.flatMap((role) => [packFloats(of[role].mean), packFloats(of[role].deviation)]);
}

function unpackAverages(packed: readonly string[]): Averages {
  const [gate, a, b] = [0, 2, 4].map((i) => ({
    mean: unpackFloats(packed[i]!),
    deviation: unpackFloats(packed[i + 1]!),
  }));
  return { gate: gate!, lora_A: a!, lora_B: b! };
}
