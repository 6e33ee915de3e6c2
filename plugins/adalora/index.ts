import {
  defineStrategy,
  type GraphRewriter,
  injectGatedLowRank,
  type ValueRef,
  z,
} from 'onnx-alora/strategy';
import { planRanks } from './plan.ts';
import { averageShare, maskSchedule } from './schedule.ts';
import { rankAllocator } from './scheduler.ts';

const steps = z.int().min(0).optional();
const beta = z.number().gt(0).lt(1).default(0.85);

const options = z.strictObject({
  initRank: z
    .int()
    .min(1)
    .optional()
    .describe('Ranks of each module at the start; default: twice what the run ends with.'),
  targetRank: z
    .int()
    .min(1)
    .optional()
    .describe(
      'Average rank at the end, ranks counted as PEFT does, the budget only reported; default: follow the budget.',
    ),
  tInit: steps.describe('Steps before the first mask; default: a tenth of the run.'),
  tFinal: steps.describe('Steps after the last mask; default: half of the run.'),
  deltaT: z
    .int()
    .min(1)
    .optional()
    .describe('Steps between two masks; default: 10, fewer where that is too few masks.'),
  beta1: beta.describe('Decay of the averaged sensitivity.'),
  beta2: beta.describe('Decay of its averaged deviation.'),
  orthogonality: z.number().min(0).default(0.1).describe('Weight of the orthogonality penalty; 0: none.'),
});

/**
 * AdaLoRA (Zhang et al. 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning"):
 *
 *     y = x W + b + s x A diag(lambda) B        A, B ~ N(0, 0.02^2), lambda = 0 at the start, all trained
 *     loss + orthogonality * mean over all A and B of ||P P^T - I||_F        (A rank-major: rows are ranks)
 *     S = s(lambda_i) + mean s(A_i) + mean s(B_i),  s(w) = averaged |w dL/dw| times its averaged deviation
 *
 * The scores are averaged after every step (clipped gradients, values after the step). From b0 the budget falls to
 * bT by b(t) = floor(bT + (b0 - bT) (1 - (t - tInit) / (T - tFinal - tInit))^3), t from 0; every deltaT steps the
 * lowest S get lambda = 0, and may come back at a later mask; the pattern of step T - tFinal is final.
 *
 * In numbers: b0 = 48 and bT = 24 ranks, tInit 10, tFinal 20, T 100, deltaT 10 mask at t = 20, 30, .. 80 to
 * 39, 32, 28, 25, 24, 24, 24; from t = 81 on the pattern of t = 80 is applied after every step. The default
 * phases are a tenth of the run before and half of it after the masks, so b falls between 0.1 T and 0.5 T.
 *
 * Without `targetRank` b counts scalars: a rank counts in + out + 1 (lambda trains), bT is the budget, and the
 * run starts with twice its rank. With it b counts ranks as PEFT does.
 *
 * Departures from the code of the paper and from PEFT (tuners/adalora): exactly as many ranks are masked as b
 * asks for, where they mask all that tie with the threshold; no mask where nothing has to go (theirs fails
 * there); with tFinal 0, or in a run that ends early, the last mask follows the last step; the averages are saved
 * with a checkpoint; ranks between two masks count as the last mask left them, although their lambda trains on.
 */
export const adalora = defineStrategy({
  name: 'adalora',
  options,
  plan(modules, budget, chosen, run) {
    return planRanks(modules, budget, chosen, averageShare(maskSchedule(run.totalSteps, chosen)));
  },
  inject: (graph, module) =>
    injectGatedLowRank(graph, module, {
      initA: { kind: 'normal', std: 0.02 },
      initB: { kind: 'normal', std: 0.02 },
      gate: { trained: true, init: { kind: 'zeros' } },
    }),
  penalty(graph, injections, { orthogonality }) {
    if (orthogonality === 0) return undefined;
    const norms = injections.flatMap(({ parameters }) =>
      ['lora_A', 'lora_B'].map((role) => distanceFromOrthogonal(graph, parameters.get(role)!)),
    );
    const sum = norms.reduce((a, b) => graph.op('Add', [a, b], {}, []));
    return graph.op('Mul', [sum, graph.scalar(orthogonality / norms.length)], {}, []);
  },
  scheduler: (run, chosen) => rankAllocator(run, maskSchedule(run.totalSteps, chosen), chosen),
});

/**
 * ||P P^T - I||_F of P [rank, width]. Its gradient is 2 C P / ||C||_F with C = P P^T - I, and 0 where the norm is
 * 0: there sqrt is taken of 1 and multiplied by 0, so that no division by zero enters the backward pass.
 */
function distanceFromOrthogonal(graph: GraphRewriter, p: ValueRef): ValueRef {
  const rank = p.shape?.[0] ?? null;
  const product = graph.op(
    'MatMul',
    [p, graph.op('Transpose', [p], { perm: [1, 0] }, [p.shape?.[1] ?? null, rank])],
    {},
    [rank, rank],
  );
  const difference = graph.op('Sub', [product, graph.op('EyeLike', [product], {}, [rank, rank])], {}, [
    rank,
    rank,
  ]);
  const square = graph.op('ReduceSumSquare', [difference], { keepdims: 0 }, []);
  const positive = graph.op('Sign', [square], {}, []);
  const guarded = graph.op('Add', [square, graph.op('Sub', [graph.scalar(1), positive], {}, [])], {}, []);
  return graph.op('Mul', [graph.op('Sqrt', [guarded], {}, []), positive], {}, []);
}
