import { costOfRank, defineStrategy, injectGatedLowRank, splitEvenly, z } from 'onnx-alora/strategy';
import { durationPattern, roundSchedule } from './rounds.ts';
import { allocationRounds } from './scheduler.ts';
import { scoreRanks } from './score.ts';
import { scorerNames } from './scorers/index.ts';

const duration = z
  .union([
    z.int().min(1),
    z
      .string()
      .regex(durationPattern)
      .meta({ examples: ['0.25 epochs'] }),
  ])
  .optional();

const options = z.strictObject({
  rounds: z.int().min(0).optional().describe('Rounds of pruning and growing (N_A); default: 8.'),
  ranksPerRound: z
    .union([z.int().min(1), z.enum(['perModel', 'perBlock'])])
    .default('perModel')
    .describe(
      'Ranks that move in a round (n_A): a number; perModel: as many as a block has modules, over the whole model; perBlock: so many within each block.',
    ),
  firstRoundAfter: duration.describe(
    'Training before the first round (K1), in steps or epochs; default: 1 epoch.',
  ),
  roundEvery: duration.describe(
    'Training between two rounds (K2), in steps or epochs; default: 0.25 epochs.',
  ),
  examples: z
    .int()
    .min(1)
    .default(32)
    .describe('Rows of the dev set that score ranks, the same in all rounds.'),
  scorer: z
    .enum(scorerNames)
    .default('exact')
    .describe(
      'How importance is found; exact: switches every rank off, and on alone; screened: taylor, then exact near the cut; taylor: two backward passes; sensitivity, dnas: the variants of the paper.',
    ),
});

/**
 * ALoRA (Liu et al. 2024, "ALoRA: Allocating Low-Rank Adaptation for Fine-tuning Large Language Models"):
 *
 *     y = x W + b + s x A diag(g) B        A kaiming-uniform, B zero, both trained; g = 1, not trained
 *     IS(r) = S(M) - S(M without r) + S(M with only r)     S = minus the mean loss on a fixed dev batch (Eq. 6)
 *
 * Algorithm 1: train K1, then N_A rounds: score all ranks, prune the n_A lowest, grant as many new ones to the
 * modules that lost none (best mean importance first, as evenly as possible), train K2. New ranks start with B = 0,
 * so growth does not change the function. The run starts at its budget and never exceeds it; where every module
 * lost a rank nobody receives, and the budget falls for good. A module without ranks stays without.
 *
 * In numbers, with 156 steps an epoch and the defaults: rounds after step 156, 195, 234, .. 429 (K1 = 156, K2 = 39,
 * N_A = 8), the last one followed by 39 steps and the rest of the run. With 7 modules a block each round moves 7
 * ranks. In a run of 60 steps, 20 an epoch, the same 20 + 8 * 5 = 60 would end behind 0.75 * 60 = 45, so K1 becomes
 * 15 and K2 3: rounds after step 15, 18, .. 36.
 *
 * Decided where the paper leaves it open: n_A counts over the whole model; pruned ranks are removed with their
 * optimizer moments, new ones start with fresh moments and step counts; equal scores go newest row first, then
 * lower module; ranks without a finite score are left alone for the round, and a dev loss that is not finite
 * skips it; a round takes half of the live ranks at the most. There is no public reference code.
 */
export const alora = Object.assign(
  defineStrategy({
    name: 'alora',
    options,
    plan(modules, budget) {
      const initial = splitEvenly(modules, budget.parameters, false);
      const cost = modules.reduce((sum, module, i) => sum + initial[i]! * costOfRank(module, false), 0);
      return { initial, peak: cost, final: cost, average: cost };
    },
    inject: (graph, module) => injectGatedLowRank(graph, module),
    scheduler: (run, { ranksPerRound, examples, scorer, ...rounds }) =>
      allocationRounds(run, {
        schedule: roundSchedule(run.totalSteps, run.stepsPerEpoch, rounds),
        ranksPerRound,
        examples,
        scorer,
      }),
  }),
  /** Scores the ranks of any adapter that a host holds. */
  { score: scoreRanks },
);
