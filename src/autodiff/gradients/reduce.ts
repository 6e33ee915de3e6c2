import type { Value } from '../../onnx/graph.ts';
import { constantOf } from '../constants.ts';
import type { Gradient, GradientContext } from '../rule.ts';

/** How a reduction node reduces. */
interface Reduced {
  /** Constant axes; null: all of them; none where only what is done to each element is left (noop_with_empty_axes). */
  readonly axes: readonly number[] | null;
  /** Puts an output-shaped value beside the input: reduced axes become 1 if the node dropped them. */
  beside(value: Value): Value;
}

/** Axes come as an attribute or as an input, by operator and opset. Refuses axes that are not constant. */
function reduced({ node, x: [, axesInput], e, refuse }: GradientContext): Reduced {
  const given = axesInput ? constantOf(axesInput) : node.ints('axes');
  if (axesInput && !given) return refuse('its axes are not constant');
  const none = node.int('noop_with_empty_axes', 0) === 1 ? [] : null;
  const axes = given && given.length > 0 ? given : none;
  const kept = node.int('keepdims', 1) === 1;
  const beside = (value: Value) => {
    // A scalar broadcasts against any rank as it is.
    return kept || !axes ? value : e.unsqueeze(value, axes);
  };
  return { axes, beside };
}

/** A reduction's gradient from dy and y, both broadcastable against x. */
function reduction(slope: (context: GradientContext, dy: Value, y: Value, how: Reduced) => Value): Gradient {
  return (context) => [
    () => {
      const how = reduced(context);
      return slope(context, how.beside(context.dy), how.beside(context.y), how);
    },
  ];
}

export const ReduceSum = reduction(({ x: [x], e }, dy) => e.expandTo(dy, x!));

export const ReduceMean = reduction(({ x: [x], e }, dy, _y, { axes }) => {
  const over = axes ?? x!.shape?.map((_, i) => i);
  const dims = over?.map((axis) => x!.shape?.at(axis));
  if (dims?.every((dim) => typeof dim === 'number'))
    return e.expandTo(e.mul(dy, 1 / dims.reduce((product, dim) => product * dim, 1)), x!);
  const count = over
    ? over
        .map((axis) => e.squeeze(e.lengths.axis(x!, axis), [0]))
        .reduce((product, length) => e.op('Mul', [product, length], {}, { dtype: 'int64', shape: [] }))
    : e.op('Size', [x!], {}, { dtype: 'int64', shape: [] });
  return e.expandTo(e.div(dy, e.cast(count, e.dtype(x!))), x!);
});

/** ReduceMax and ReduceMin: elements that tie share dy equally, as PyTorch's amax has it. */
const extreme = reduction(({ x: [x], e }, dy, y, { axes }) => {
  const wins = e.compare('Equal', x!, y);
  const count = e.reduceSum(e.cast(wins, e.dtype(x!)), axes, true);
  return e.where(wins, e.div(dy, count), 0);
});
export const ReduceMax = extreme;
export const ReduceMin = extreme;

/** y = sum |x|: dx = dy sign(x). */
export const ReduceL1 = reduction(({ x: [x], e }, dy) => {
  const positive = e.cast(e.compare('Greater', x!, 0), e.dtype(x!));
  const negative = e.cast(e.compare('Less', x!, 0), e.dtype(x!));
  return e.mul(dy, e.sub(positive, negative));
});

/** y = sqrt(sum x^2): dx = dy x / y, 0 where y = 0. */
export const ReduceL2 = reduction(({ x: [x], e }, dy, y) => {
  const scale = e.where(e.compare('Equal', y, 0), 0, e.div(dy, y));
  return e.mul(x!, scale);
});

/** y = sum x^2: dx = 2 dy x. */
export const ReduceSumSquare = reduction(({ x: [x], e }, dy) => e.mul(x!, e.mul(dy, 2)));

/** y = log sum exp x: dx = dy exp(x - y). */
export const ReduceLogSumExp = reduction(({ x: [x], e }, dy, y) => e.mul(e.unary('Exp', e.sub(x!, y)), dy));

/** Running sum along an axis: dx = the running sum of dy from the other end. */
export const CumSum: Gradient = ({ node, x: [, axis], dy, e }) => [
  () =>
    e.op(
      'CumSum',
      [dy, axis!],
      { exclusive: node.int('exclusive', 0), reverse: 1 - node.int('reverse', 0) },
      { shape: dy.shape },
    ),
  null,
];
