import {
  AloraError,
  type Budget,
  costOfRank,
  defineStrategy,
  injectGatedLowRank,
  type RankPlan,
  selectWithinBudget,
  splitEvenly,
  type TargetModule,
  z,
} from 'onnx-alora/strategy';
import { gateThreshold } from './scheduler.ts';

const options = z.strictObject({
  gateLearningRate: z
    .number()
    .gt(0)
    .optional()
    .describe('Peak learning rate of the gates, under the schedule of the run; default: train.learningRate.'),
  threshold: z
    .number()
    .min(0)
    .optional()
    .describe(
      'Every gate is shrunk by this after each step, for the whole run, and the budget is only reported; default: shrink until the budget is met.',
    ),
});

/**
 * SoRA (Ding et al. 2023, "Sparse Low-rank Adaptation of Pre-trained Language Models"):
 *
 *     y = x W + b + s x A diag(g) B        A kaiming-uniform, B zero, g ~ N(0, 1), all trained
 *     after each step                      g <- sign(g) max(|g| - threshold, 0)
 *
 * Gates have AdamW settings of their own (`gateLearningRate`, no decay) and count in the clip norm. A zero gate
 * still gets a gradient and may revive. A rank costs in + out + 1; the run starts with twice the budget's rank.
 *
 * With `threshold` given that is all, and where the run ends is the threshold's doing. Without it the run meets
 * its budget (target mode): the threshold is 0.6745 / (T/2), which would take half of the initial gates to zero
 * by T/2 if no gradient moved them (T = 1000: 1.3e-3). Once a shrinking step reaches the budget from above, or
 * at T/2 at the latest, the largest |g| that fit the budget stay, the rest is zero for good, and shrinking ends.
 *
 * In numbers: budget rank 8 starts at rank 16 in every module; T = 1000 shrinks each gate by up to 0.67 in 500
 * steps, then half of the ranks (by cost, gates included) train on for 500 steps without a threshold.
 *
 * Departures from the paper's code (src/sparse_optimizer.py, src/trainer.py): the threshold is the clean
 * proximal step, where the code's last line also zeroes what was just shrunk into (0, threshold); no L1 term is
 * added to the loss on top of it; the gates' optimizer is AdamW with epsilon 1e-8 and its state is saved.
 */
export const sora = defineStrategy({
  name: 'sora',
  options,
  groups: ({ gateLearningRate }) => ({
    gate: { learningRate: gateLearningRate, weightDecay: 0, epsilon: 1e-8 },
  }),
  plan: (modules, budget, { threshold }) => planRanks(modules, budget, threshold),
  inject: (graph, module) =>
    injectGatedLowRank(graph, module, {
      gate: { trained: true, init: { kind: 'normal', std: 1 }, group: 'gate' },
    }),
  scheduler: (run, { threshold }) => gateThreshold(run, threshold),
});

function planRanks(
  modules: readonly TargetModule[],
  budget: Budget,
  threshold: number | undefined,
): RankPlan {
  const initial = initialRanks(modules, budget);
  const candidates = modules.flatMap((module, i) =>
    Array.from({ length: initial[i]! }, () => ({ score: 0, cost: costOfRank(module, true) })),
  );
  const peak = candidates.reduce((sum, { cost }) => sum + cost, 0);
  if (threshold !== undefined) return { initial, peak, final: peak, average: peak };
  const target = finalTarget(budget, peak);
  const keep = selectWithinBudget(candidates, target);
  const final = candidates.reduce((sum, { cost }, i) => sum + (keep[i] ? cost : 0), 0);
  if (budget.at === 'final' && final < 0.99 * target)
    throw new AloraError('config', 'BUDGET_UNREACHABLE', 'SoRA cannot meet the budget in whole ranks', {
      where: 'budget',
      got: `${peak} parameters at the start (gates included), of which the nearest choice below keeps ${final}`,
      allowed: `99 to 100 % of ${Math.floor(target)} at the end`,
      fix: `Set budget.parameters to ${final}, or choose other targets.`,
    });
  // As if the search went evenly from the start to T/2: a quarter of the way is spent above the end.
  return { initial, peak, final, average: final + (peak - final) / 4 };
}

function finalTarget({ at, parameters }: Budget, peak: number): number {
  switch (at) {
    case 'final':
      return parameters;
    case 'peak':
      return parameters / 2;
    case 'average':
      return Math.min(peak, (4 * parameters - peak) / 3);
  }
}

/** Twice the budget's rank; 4/3 of an average budget, so that even a search that ends at T/2 leaves a half. */
function initialRanks(modules: readonly TargetModule[], budget: Budget): number[] {
  const capped = (rank: number) => modules.map((module) => Math.min(rank, module.in, module.out));
  const one = modules.reduce((sum, module) => sum + costOfRank(module, true), 0);
  switch (budget.at) {
    case 'final':
      return capped(2 * budget.rank);
    case 'peak':
      return splitEvenly(modules, budget.parameters, true);
    case 'average':
      return capped(Math.max(1, Math.round((4 / 3) * (budget.parameters / one))));
  }
}
