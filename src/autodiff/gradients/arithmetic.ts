import type { Value } from '../../onnx/graph.ts';
import { constantOf } from '../constants.ts';
import { type Gradient, once } from '../rule.ts';

/** y = a + b, broadcast. */
export const Add: Gradient = ({ x: [a, b], dy, e }) => [() => e.sumTo(dy, a!), () => e.sumTo(dy, b!)];

/** y = a - b, broadcast. */
export const Sub: Gradient = ({ x: [a, b], dy, e }) => [() => e.sumTo(dy, a!), () => e.neg(e.sumTo(dy, b!))];

/**
 * y = a b, broadcast. For y = x s, s = sigmoid x (SiLU), dx = dy s (1 + x - y) at once, in two passes fewer than by way
 * of the sigmoid, which gets no gradient from here; as x is among the operands, y and s need not be kept (see repeatCheap).
 */
export const Mul: Gradient = ({ x: [a, b], y, dy, e, isInner }) => {
  const silu = (x: Value, s: Value) => () => e.mul(dy, e.mul(e.add(e.sub(x, y), 1), s));
  if (isSigmoidOf(b!, a!) && isInner(b!)) return [silu(a!, b!), () => null];
  if (isSigmoidOf(a!, b!) && isInner(a!)) return [() => null, silu(b!, a!)];
  return [() => e.sumTo(e.mul(dy, scalarOf(b!) ?? b!), a!), () => e.sumTo(e.mul(dy, scalarOf(a!) ?? a!), b!)];
};

function isSigmoidOf({ producer }: Value, x: Value): boolean {
  return producer?.op === 'Sigmoid' && producer.domain === '' && producer.inputs[0] === x;
}

/** The number of a constant operand with one element, which joins other constant factors. */
function scalarOf(value: Value): number | undefined {
  const constant = constantOf(value);
  return constant?.length === 1 ? constant[0] : undefined;
}

/** y = a / b, broadcast; db = -dy a / b^2 = -(dy / b) y. */
export const Div: Gradient = ({ x: [a, b], y, dy, e }) => {
  const divisor = scalarOf(b!);
  const scaled = once(() => (divisor ? e.mul(dy, 1 / divisor) : e.div(dy, b!)));
  return [() => e.sumTo(scaled(), a!), () => e.neg(e.sumTo(e.mul(scaled(), y), b!))];
};

export const Neg: Gradient = ({ dy, e }) => [() => e.neg(dy)];

/** Sum of any number of operands, broadcast. */
export const Sum: Gradient = ({ x, dy, e }) => x.map((operand) => () => e.sumTo(dy, operand!));

/**
 * y = a^b, broadcast. da = dy b a^(b-1), and 0 where b = 0, in a cheap form for the constant exponents that models
 * use. db = dy y log a, and 0 where a = 0 and b >= 0. Both as PyTorch has it.
 */
export const Pow: Gradient = ({ x: [a, b], y, dy, e }) => {
  const exponent = constantOf(b);
  const dtype = e.dtype(a!);
  return [
    () => {
      if (exponent?.length !== 1) {
        const power = e.cast(b!, dtype);
        const slope = e.mul(e.mul(dy, power), e.op('Pow', [a!, e.sub(power, 1)], {}, { shape: y.shape }));
        return e.sumTo(e.where(e.compare('Equal', power, 0), 0, slope), a!);
      }
      const n = exponent[0]!;
      // A one-element exponent of rank 1 may still raise the rank of a scalar: hence sumTo.
      const slope = () => {
        if (n === 0) return null;
        if (n === 1) return dy;
        if (n === 2) return e.mul(e.mul(dy, 2), a!);
        if (n === 3) return e.mul(e.mul(dy, 3), e.mul(a!, a!));
        if (n === 0.5) return e.div(e.mul(dy, 0.5), y);
        if (n === -1) return e.neg(e.mul(dy, e.mul(y, y)));
        const rest = e.op('Pow', [a!, e.builder.scalar(n - 1, dtype)], {}, { shape: a!.shape });
        return e.mul(e.mul(dy, n), rest);
      };
      const full = slope();
      return full && e.sumTo(full, a!);
    },
    () => {
      const power = e.cast(b!, dtype);
      const product = e.mul(dy, e.mul(y, e.unary('Log', a!)));
      const isZero = e.op(
        'And',
        [e.compare('Equal', a!, 0), e.compare('GreaterOrEqual', power, 0)],
        {},
        { dtype: 'bool', shape: y.shape },
      );
      return e.cast(e.sumTo(e.where(isZero, 0, product), b!), e.dtype(b!));
    },
  ];
};

/** y = sqrt x: dx = dy / 2y. */
export const Sqrt: Gradient = ({ y, dy, e }) => [() => e.div(e.mul(dy, 0.5), y)];

/** y = 1 / x: dx = -dy y^2. */
export const Reciprocal: Gradient = ({ y, dy, e }) => [() => e.neg(e.mul(dy, e.mul(y, y)))];

export const Exp: Gradient = ({ y, dy, e }) => [() => e.mul(dy, y)];

export const Log: Gradient = ({ x: [x], dy, e }) => [() => e.div(dy, x!)];

/** dx = dy sign(x), 0 at 0. Sign itself has no kernel on WebGPU. */
export const Abs: Gradient = ({ x: [x], dy, e }) => [
  () => e.where(e.compare('Greater', x!, 0), dy, e.where(e.compare('Less', x!, 0), e.neg(dy), 0)),
];

export const Sin: Gradient = ({ x: [x], dy, e }) => [() => e.mul(dy, e.unary('Cos', x!))];

export const Cos: Gradient = ({ x: [x], dy, e }) => [() => e.neg(e.mul(dy, e.unary('Sin', x!)))];
