import type { Value } from '../../onnx/graph.ts';
import { constantOf } from '../constants.ts';
import type { Emitter } from '../emitter.ts';
import type { Gradient } from '../rule.ts';

/**
 * y picks slices of x along an axis: dx adds each slice of dy where it came from. One constant index pads; rows
 * (axis 0) are added by ScatterND, other axes by ScatterElements. Duplicated indices sum. Before opset 16, where
 * scatters cannot add, a 0/1 matrix sums by product.
 */
export const Gather: Gradient = ({ node, x: [x, indices], dy, e, refuse }) => [
  () => {
    const rank = x!.shape?.length;
    const axis = node.int('axis', 0);
    const single = constantOf(indices);
    if (single?.length === 1 && rank !== undefined) {
      const at = axis < 0 ? axis + rank : axis;
      const slice = indices!.shape?.length === 0 ? e.unsqueeze(dy, [at]) : dy;
      if (indices!.shape && indices!.shape.length <= 1)
        return e.pad(slice, rank, new Map([[at, around(e, x!, at, single[0]!)]]));
    }
    if (axis === 0 && e.opset >= 16) {
      const where = e.op('Unsqueeze', [e.cast(indices!, 'int64'), e.builder.ints([-1])]);
      return e.op('ScatterND', [e.zerosLike(x!), where, dy], { reduction: 'add' }, { shape: x!.shape });
    }
    if (rank === undefined || !indices!.shape)
      return refuse('the rank of its input or indices is unknown; infer shapes before differentiating');
    const at = axis < 0 ? axis + rank : axis;
    return addSlices(e, x!, at, indices!, dy);
  },
  null,
];

/** Zeros before and after one constant place of an axis. */
function around(e: Emitter, x: Value, axis: number, index: number): [Value, Value] {
  const length = x.shape![axis];
  if (typeof length === 'number') {
    const place = index < 0 ? index + length : index;
    return [e.builder.ints([place]), e.builder.ints([length - 1 - place])];
  }
  const sub = (a: Value, b: number) =>
    e.op('Sub', [a, e.builder.ints([b])], {}, { dtype: 'int64', shape: [1] });
  const total = e.lengths.axis(x, axis);
  if (index < 0) return [sub(total, -index), e.builder.ints([-1 - index])];
  return [e.builder.ints([index]), sub(total, index + 1)];
}

/** dx of a Gather with dy (before..., indices..., after...), by a product with the 0/1 matrix indices x places. */
function addSlices(e: Emitter, x: Value, axis: number, indices: Value, dy: Value): Value {
  const [rank, many] = [x.shape!.length, indices.shape!.length];
  const flat = e.op('Reshape', [e.cast(indices, 'int64'), e.builder.ints([-1])], {}, { shape: [null] });
  const length = e.lengths.axis(x, axis);
  // Negative indices count from the end.
  const wrapped = e.op('Where', [
    e.op('Less', [flat, e.builder.int(0)], {}, { dtype: 'bool' }),
    e.op('Add', [flat, length]),
    flat,
  ]);
  wrapped.dtype = 'int64';
  const places = e.op('Range', [e.builder.int(0), e.squeeze(length, [0]), e.builder.int(1)]);
  const hits = e.op(
    'Equal',
    [e.op('Unsqueeze', [places, e.builder.ints([1])]), wrapped],
    {},
    { dtype: 'bool' },
  );
  const matrix = e.cast(hits, e.dtype(dy)); // (length, indices)
  // dy with the index axes moved to the front and joined, its other axes joined: (indices, before x after)
  const others = [
    ...Array(axis).keys(),
    ...Array.from({ length: rank - 1 - axis }, (_, i) => axis + many + i),
  ];
  const front = e.transpose(dy, [...Array.from({ length: many }, (_, i) => axis + i), ...others]);
  const columns = e.op('Flatten', [front], { axis: many });
  const sums = e.op('MatMul', [matrix, columns]); // (length, before x after)
  const otherAxes = [...Array(rank).keys()].filter((i) => i !== axis);
  const target = e.concat([length, ...otherAxes.map((i) => e.lengths.axis(x, i))], 0);
  const unjoined = e.reshape(sums, target, [x.shape![axis]!, ...otherAxes.map((i) => x.shape![i]!)]);
  return e.transpose(unjoined, [
    ...Array.from({ length: axis }, (_, i) => i + 1),
    0,
    ...Array.from({ length: rank - 1 - axis }, (_, i) => axis + 1 + i),
  ]);
}

/** y[..i..] = x[..indices[..i..]..] along an axis. */
export const GatherElements: Gradient = ({ node, x: [x, indices], dy, e, refuse }) => [
  () => {
    if (e.opset < 16) return refuse('it needs a scatter that adds, which opset 16 brought');
    const attributes = { axis: node.int('axis', 0), reduction: 'add' };
    return e.op('ScatterElements', [e.zerosLike(x!), indices!, dy], attributes, { shape: x!.shape });
  },
  null,
];

/** y picks slices of x by index tuples. */
export const GatherND: Gradient = ({ node, x: [x, indices], dy, e, refuse }) => [
  () => {
    if (node.int('batch_dims', 0) !== 0) return refuse('batch_dims is not covered');
    if (e.opset < 16) return refuse('it needs a scatter that adds, which opset 16 brought');
    return e.op('ScatterND', [e.zerosLike(x!), indices!, dy], { reduction: 'add' }, { shape: x!.shape });
  },
  null,
];

/** y is x with some elements replaced by, or increased by, updates. */
export const ScatterElements: Gradient = ({ node, x: [x, indices, updates], dy, e, refuse }) => {
  const reduction = node.string('reduction', 'none');
  if (reduction !== 'none' && reduction !== 'add') return refuse(`reduction ${reduction} is not covered`);
  const axis = node.int('axis', 0);
  return [
    () =>
      reduction === 'add'
        ? dy
        : e.op('ScatterElements', [dy, indices!, e.zerosLike(updates!)], { axis }, { shape: x!.shape }),
    null,
    () => e.op('GatherElements', [dy, indices!], { axis }, { shape: updates!.shape }),
  ];
};

/** y is x with some slices replaced by, or increased by, updates. Indices of replaced slices must differ. */
export const ScatterND: Gradient = ({ node, x: [x, indices, updates], dy, e, refuse }) => {
  const reduction = node.string('reduction', 'none');
  if (reduction !== 'none' && reduction !== 'add') return refuse(`reduction ${reduction} is not covered`);
  return [
    () =>
      reduction === 'add'
        ? dy
        : e.op('ScatterND', [dy, indices!, e.zerosLike(updates!)], {}, { shape: x!.shape }),
    null,
    () => e.op('GatherND', [dy, indices!], {}, { shape: updates!.shape }),
  ];
};

/** y, places = the k largest (or smallest) along an axis. */
export const TopK: Gradient = ({ node, x: [x], dy, e }) => [
  () => {
    if (!node.outputs[1])
      node.outputs[1] = Object.assign(
        e.builder.graph.value(`${node.output.name}/places`, 'int64', dy.shape),
        { producer: node },
      );
    const attributes = { axis: node.int('axis', -1) };
    return e.op('ScatterElements', [e.zerosLike(x!), node.outputs[1]!, dy], attributes, { shape: x!.shape });
  },
  null,
];
