import {
  AloraError,
  type Budget,
  costOfRank,
  type RankPlan,
  selectWithinBudget,
  splitEvenly,
  type TargetModule,
} from 'onnx-alora/strategy';

export interface RankOptions {
  readonly initRank?: number | undefined;
  readonly targetRank?: number | undefined;
}

const cost = (module: TargetModule) => costOfRank(module, true);
const capped = (modules: readonly TargetModule[], rank: number) =>
  modules.map((module) => Math.min(rank, module.in, module.out));
const total = (modules: readonly TargetModule[], ranks: readonly number[]) =>
  modules.reduce((sum, module, i) => sum + ranks[i]! * cost(module), 0);

/** Scalars that the last mask leaves. `share`: mean over the steps of what is granted above that, see averageShare. */
export function finalParameters(budget: Budget, initial: number, share: number): number {
  switch (budget.at) {
    case 'final':
      return budget.parameters;
    case 'peak':
      return budget.parameters / 2;
    case 'average':
      return (budget.parameters - initial * share) / (1 - share);
  }
}

/** Initial ranks: twice what the run ends with, unless `initRank` says otherwise. */
export function planRanks(
  modules: readonly TargetModule[],
  budget: Budget,
  { initRank, targetRank }: RankOptions,
  share: number,
): RankPlan {
  if (targetRank !== undefined) return planByRank(modules, initRank ?? 2 * targetRank, targetRank, share);
  const initial = initRank === undefined ? startFor(modules, budget, share) : capped(modules, initRank);
  const peak = total(modules, initial);
  const target = finalParameters(budget, peak, share);
  const candidates = modules.flatMap((module, i) =>
    Array.from({ length: initial[i]! }, () => ({ score: 0, cost: cost(module) })),
  );
  const keep = target > 0 ? selectWithinBudget(candidates, target) : [];
  const final = candidates.reduce((sum, candidate, i) => sum + (keep[i] ? candidate.cost : 0), 0);
  const average = final + (peak - final) * share;
  const counted = { final, peak, average }[budget.at];
  // A millionth of a scalar: the average is a quotient.
  if (target <= 0 || counted < 0.99 * budget.parameters || counted > budget.parameters + 1e-6)
    throw new AloraError(
      'config',
      'BUDGET_UNREACHABLE',
      `AdaLoRA cannot meet the ${budget.at} budget from these ranks`,
      {
        where: initRank === undefined ? 'budget' : 'adapter.initRank',
        got: `${peak} parameters at the start, ${final} at the end, ${Math.round(average)} on average (gates included)`,
        allowed: `99 to 100 % of ${budget.parameters} ${budget.at}`,
        fix:
          initRank === undefined
            ? 'Set a larger budget or other targets.'
            : 'Leave adapter.initRank out, or change it.',
      },
    );
  return { initial, peak, final, average };
}

function startFor(modules: readonly TargetModule[], budget: Budget, share: number): number[] {
  switch (budget.at) {
    case 'final':
      return capped(modules, 2 * budget.rank);
    case 'peak':
      return splitEvenly(modules, budget.parameters, true);
    case 'average':
      return capped(modules, uniformRank(modules, (2 * budget.parameters) / (1 + share)));
  }
}

/** The rank that spends about so many scalars on every module alike. */
function uniformRank(modules: readonly TargetModule[], parameters: number): number {
  return Math.max(1, Math.round(parameters / modules.reduce((sum, module) => sum + cost(module), 0)));
}

/** PEFT's arithmetic: ranks are counted, whatever they cost; which ones stay decides the parameters. */
function planByRank(
  modules: readonly TargetModule[],
  initRank: number,
  targetRank: number,
  share: number,
): RankPlan {
  if (initRank < targetRank)
    throw new AloraError('config', 'RANK_BELOW_TARGET', 'AdaLoRA only takes ranks away', {
      where: 'adapter.initRank',
      got: `initRank ${initRank}, targetRank ${targetRank}`,
      allowed: `initRank of ${targetRank} or more`,
      fix: 'Raise adapter.initRank, or leave it out: it is then twice adapter.targetRank.',
    });
  const initial = capped(modules, initRank);
  const peak = total(modules, initial);
  const final = total(modules, capped(modules, targetRank));
  return { initial, peak, final, average: final + (peak - final) * share };
}
