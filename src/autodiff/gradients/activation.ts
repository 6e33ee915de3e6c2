import { quotientOf } from '../../onnx/graph.ts';
import type { Gradient } from '../rule.ts';

/** y = erf x: dx = dy 2/sqrt(pi) exp(-x^2). */
export const Erf: Gradient = ({ x: [x], dy, e }) => [
  () => e.mul(e.mul(dy, 2 / Math.sqrt(Math.PI)), e.unary('Exp', e.neg(e.mul(x!, x!)))),
];

/** dx = dy (1 - y^2). */
export const Tanh: Gradient = ({ y, dy, e }) => [() => e.mul(dy, e.sub(1, e.mul(y, y)))];

/** dx = dy y (1 - y). */
export const Sigmoid: Gradient = ({ y, dy, e }) => [() => e.mul(dy, e.mul(y, e.sub(1, y)))];

/** dx = dy where y > 0, 0 at the kink. */
export const Relu: Gradient = ({ y, dy, e }) => [() => e.where(e.compare('Greater', y, 0), dy, 0)];

/** y = x where x >= 0, alpha x below; alpha at the kink, as PyTorch has it. */
export const LeakyRelu: Gradient = ({ node, x: [x], dy, e }) => [
  () => e.where(e.compare('Greater', x!, 0), dy, e.mul(dy, node.float('alpha', 0.01))),
];

/** y = x where x > 0, alpha (exp x - 1) below, where dy/dx = y + alpha. */
export const Elu: Gradient = ({ node, x: [x], y, dy, e }) => [
  () => e.where(e.compare('Greater', x!, 0), dy, e.mul(dy, e.add(y, node.float('alpha', 1)))),
];

/** y = log(1 + exp x): dx = dy sigmoid x. */
export const Softplus: Gradient = ({ x: [x], dy, e }) => [() => e.mul(dy, e.unary('Sigmoid', x!))];

/** y = clamp(alpha x + beta, 0, 1): dx = alpha dy strictly inside. */
export const HardSigmoid: Gradient = ({ node, y, dy, e }) => [
  () => {
    const inside = e.op(
      'And',
      [e.compare('Greater', y, 0), e.compare('Less', y, 1)],
      {},
      { dtype: 'bool', shape: y.shape },
    );
    return e.where(inside, e.mul(dy, node.float('alpha', 0.2)), 0);
  },
];

/**
 * y = x P(x), P the normal distribution function: dx = dy (P(x) + x p(x)). With approximate = tanh, y = x s,
 * s = (1 + tanh u) / 2 = sigmoid(2u), u = c (x + k x^3): dx = dy (s + y (1 - s) 2u'). Written for few passes: x P and
 * x s are y again, so that the backward pass need not compute it by Gelu (see repeatCheap).
 */
export const Gelu: Gradient = ({ node, x: [x], y, dy, e }) => [
  () => {
    if (node.string('approximate', 'none') === 'none') {
      const h = e.mul(x!, Math.SQRT1_2);
      const distribution = e.portion(e.unary('Erf', h), 0.5, 0.5);
      distribution.producer!.metadata = new Map([[quotientOf, y.name]]);
      // x p(x) = h exp(-h^2) / sqrt(pi)
      const density = e.unary('Exp', e.sub(-0.5 * Math.log(Math.PI), e.mul(h, h)));
      return e.mul(dy, e.add(distribution, e.mul(h, density)));
    }
    const [c, k] = [Math.sqrt(2 / Math.PI), 0.044715];
    // 2u = 2ck x (x^2 + 1/k), 2u' = 6ck (x^2 + 1/(3k))
    const shifted = e.add(e.mul(x!, x!), 1 / k);
    const s = e.unary('Sigmoid', e.mul(e.mul(x!, shifted), 2 * c * k));
    s.producer!.metadata = new Map([[quotientOf, y.name]]);
    const rest = e.portion(s, -6 * c * k, 6 * c * k);
    const curve = e.mul(e.mul(e.mul(x!, s), rest), e.sub(shifted, 2 / (3 * k)));
    return e.mul(dy, e.add(s, curve));
  },
];
