import type { Value } from '../../onnx/graph.ts';
import { type Gradient, once } from '../rule.ts';

/** Joins along an axis: dy is split into pieces of the inputs' lengths. */
export const Concat: Gradient = ({ node, x, dy, e }) => {
  const axis = node.int('axis', 0);
  const pieces = once(() => {
    const dims = x.map((piece) => piece!.shape?.at(axis));
    const lengths = dims.every((dim) => typeof dim === 'number')
      ? e.builder.ints(dims as number[])
      : e.concat(
          x.map((piece) => e.lengths.axis(piece!, axis)),
          0,
        );
    const name = `${e.scope}/Split`;
    const made = e.builder.node('Split', [dy, lengths], x.length, { name, attributes: { axis } });
    made.outputs.forEach((piece, i) => {
      piece!.dtype = dy.dtype;
      piece!.shape = x[i]!.shape;
    });
    return made.outputs;
  });
  return x.map((_, i) => () => (x.length === 1 ? dy : pieces()[i]!));
};

/** Cuts along an axis: dx joins the gradients of the pieces, zeros where a piece does not lead to the loss. */
export const Split: Gradient = ({ node, dOutputs, e }) => [
  () => {
    const pieces = dOutputs.map((gradient, i): Value => gradient ?? e.zerosLike(node.outputs[i]!));
    return e.concat(pieces, node.int('axis', 0));
  },
  null,
];
