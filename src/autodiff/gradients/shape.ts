import { constantOf, permutation } from '../constants.ts';
import type { Gradient } from '../rule.ts';

/** Reshape and Flatten: dx = dy in the shape of x. */
const reshaped: Gradient = ({ x: [x], dy, e }) => [() => e.reshapeLike(dy, x!), null];
export const Reshape = reshaped;
export const Flatten = reshaped;

export const Squeeze: Gradient = ({ x: [x, axesInput], dy, e }) => [
  () => {
    const axes = constantOf(axesInput);
    return axes ? e.unsqueeze(dy, axes) : e.reshapeLike(dy, x!);
  },
  null,
];

export const Unsqueeze: Gradient = ({ x: [x, axesInput], dy, e }) => [
  () => {
    const axes = constantOf(axesInput);
    return axes ? e.squeeze(dy, axes) : e.reshapeLike(dy, x!);
  },
  null,
];

export const Transpose: Gradient = ({ node, x: [x], dy, e }) => [
  () => {
    const rank = node.ints('perm')?.length ?? x!.shape?.length;
    // Without a permutation the axes are reversed, which undoes itself.
    if (rank === undefined) return e.op('Transpose', [dy], {}, { shape: x!.shape });
    const perm = permutation(node, rank);
    const inverse = perm.map((_, i) => perm.indexOf(i));
    return e.transpose(dy, inverse);
  },
];

export const Expand: Gradient = ({ x: [x], dy, e }) => [() => e.sumTo(dy, x!), null];

/** y repeats x r_i times along axis i: dy as [r_0, d_0, r_1, d_1, ...], summed over the r_i. */
export const Tile: Gradient = ({ x: [x, repeats], dy, e, refuse }) => [
  () => {
    const rank = x!.shape?.length;
    if (rank === undefined)
      return refuse('the rank of its input is unknown; infer shapes before differentiating');
    if (rank === 0) return dy;
    const pairs = e.concat([e.unsqueeze(repeats!, [1]), e.unsqueeze(e.lengths.of(x!), [1])], 1);
    const interleaved = e.op('Reshape', [pairs, e.builder.ints([-1])], {}, { shape: [2 * rank] });
    const apart = e.reshape(dy, interleaved, Array(2 * rank).fill(null));
    return e.reduceSum(
      apart,
      Array.from({ length: rank }, (_, i) => 2 * i),
      false,
    );
  },
  null,
];

/** Triangles of the last two axes: the other triangle of dy is zero. */
export const Trilu: Gradient = ({ node, x: [, k], dy, e }) => [
  () => e.op('Trilu', [dy, k ?? null], { upper: node.int('upper', 1) }, { shape: dy.shape }),
  null,
];
