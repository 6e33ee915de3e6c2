import type { Value } from '../../onnx/graph.ts';
import { type Gradient, once } from '../rule.ts';

/** y = a where condition, else b; broadcast. */
export const Where: Gradient = ({ x: [condition, a, b], dy, e }) => [
  null,
  () => e.sumTo(e.where(condition!, dy, 0), a!),
  () => e.sumTo(e.where(condition!, 0, dy), b!),
];

/** dx = dy where low <= x <= high, the bounds included, as PyTorch has it. The bounds have no gradient. */
export const Clip: Gradient = ({ x: [x, low, high], dy, e }) => [
  () => {
    const inside = [
      ...(low ? [e.compare('GreaterOrEqual', x!, low)] : []),
      ...(high ? [e.compare('LessOrEqual', x!, high)] : []),
    ];
    if (inside.length === 0) return dy;
    const both =
      inside.length === 2 ? e.op('And', inside, {}, { dtype: 'bool', shape: x!.shape }) : inside[0]!;
    return e.where(both, dy, 0);
  },
];

/** Elementwise extreme of any number of operands, broadcast; operands that tie share dy equally. */
const extreme: Gradient = ({ x, y, dy, e }) => {
  const winners = once(() => x.map((operand) => e.compare('Equal', operand!, y)));
  const share = once(() => {
    const counts = winners().map((wins) => e.cast(wins, e.dtype(y)));
    return e.div(
      dy,
      counts.reduce((sum: Value, count) => e.add(sum, count)),
    );
  });
  return x.map((operand, i) => () => e.sumTo(e.where(winners()[i]!, share(), 0), operand!));
};

export const Max = extreme;
export const Min = extreme;
