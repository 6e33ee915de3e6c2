import type { Gradient } from '../rule.ts';

/** y = softmax over one axis: dx = (dy - sum(dy y)) y. */
export const Softmax: Gradient = ({ node, y, dy, e }) => [
  () => {
    const sum = e.reduceSum(e.mul(dy, y), [node.int('axis', -1)], true);
    return e.mul(e.sub(dy, sum), y);
  },
];

/** y = log softmax over one axis: dx = dy - exp(y) sum(dy). */
export const LogSoftmax: Gradient = ({ node, y, dy, e }) => [
  () => {
    const sum = e.reduceSum(dy, [node.int('axis', -1)], true);
    return e.sub(dy, e.mul(e.unary('Exp', y), sum));
  },
];
