import { dtypeOf } from '../../onnx/dtype.ts';
import type { Dim, Node } from '../../onnx/graph.ts';
import { add, divide, isNonNegative, subtract } from '../symbolic.ts';
import {
  build,
  dtypeAt,
  type Inferred,
  isNumeric,
  itemAt,
  itemLimit,
  normalAxis,
  type Rule,
  type Scope,
  sameAsInput,
  shapeAt,
  sizeOf,
  tensorItems,
} from './rule.ts';

const withShape = (node: Node, index: number): Inferred => ({
  dtype: dtypeAt(node, 0),
  shape: shapeAt(node, index),
});

function gather(node: Node, scope: Scope): Inferred {
  const dtype = dtypeAt(node, 0);
  const data = shapeAt(node, 0);
  const indices = shapeAt(node, 1);
  if (!data || !indices) return { dtype, shape: null };
  const axis = normalAxis(node.int('axis', 0), data.length);
  const shape = [...data.slice(0, axis), ...indices, ...data.slice(axis + 1)];
  const items = scope.items(node.inputs[0]);
  const chosen = scope.items(node.inputs[1]);
  if (!items || !chosen || !isNumeric(shape) || !isNumeric(chosen) || sizeOf(shape) > itemLimit)
    return { dtype, shape };
  return {
    dtype,
    shape,
    items: build(shape, (index) => {
      const at = itemAt(indices as number[], chosen, index.slice(axis, axis + indices.length)) as number;
      const position = normalAxis(at, data[axis] as number);
      return itemAt(data as number[], items, [
        ...index.slice(0, axis),
        position,
        ...index.slice(axis + indices.length),
      ]);
    }),
  };
}

function gatherNd(node: Node): Inferred {
  const dtype = dtypeAt(node, 0);
  const data = shapeAt(node, 0);
  const indices = shapeAt(node, 1);
  const depth = indices?.at(-1);
  if (!data || !indices || typeof depth !== 'number') return { dtype, shape: null };
  const batch = node.int('batch_dims', 0);
  return { dtype, shape: [...indices.slice(0, -1), ...data.slice(batch + depth)] };
}

/** Scatters into vectors of lengths, as exports of in-place writes to a shape do. */
function scatter(node: Node, scope: Scope): Inferred {
  const plain = withShape(node, 0);
  const items = scope.items(node.inputs[0]);
  const indices = scope.items(node.inputs[1]);
  const updates = scope.items(node.inputs[2]);
  if (
    !items ||
    !indices ||
    !updates ||
    plain.shape?.length !== 1 ||
    node.string('reduction', 'none') !== 'none'
  )
    return plain;
  if (!isNumeric(indices) || indices.length !== updates.length) return plain;
  const written = [...items];
  indices.forEach((at, i) => {
    written[normalAxis(at, items.length)] = updates[i]!;
  });
  return { ...plain, items: written };
}

function range(node: Node, scope: Scope): Inferred {
  const dtype = dtypeAt(node, 0);
  const [start, limit, step] = [0, 1, 2].map((i) => scope.items(node.inputs[i])?.[0] ?? null) as Dim[];
  if (typeof start === 'number' && typeof limit === 'number' && typeof step === 'number') {
    const length = Math.max(0, Math.ceil((limit - start) / step));
    // Runtimes add the step up: fractions come out otherwise than by multiplication.
    const exact = Number.isInteger(start) && Number.isInteger(step);
    if (length > itemLimit || !exact) return { dtype, shape: [length] };
    return { dtype, shape: [length], items: Array.from({ length }, (_, i) => start + i * step) };
  }
  const length = subtract(limit!, start!);
  if (typeof step !== 'number' || step < 1 || !isNonNegative(length)) return { dtype, shape: [null] };
  return { dtype, shape: [step === 1 ? length : divide(add(length, step - 1), step)] };
}

function constantOfShape(node: Node, scope: Scope): Inferred {
  const value = node.tensor('value');
  const dtype = value?.dtype ?? 'float32';
  const rank = shapeAt(node, 0)?.[0];
  const shape =
    scope.items(node.inputs[0])?.map((dim) => (isNonNegative(dim) ? dim : null)) ??
    (typeof rank === 'number' ? Array.from({ length: rank }, () => null) : null);
  const fill = value ? tensorItems(value)?.[0] : 0;
  if (!isNumeric(shape) || sizeOf(shape) > itemLimit || fill === undefined) return { dtype, shape };
  return { dtype, shape, items: build(shape, () => fill) };
}

function nonZero(node: Node, scope: Scope): Inferred {
  const data = shapeAt(node, 0);
  const items = scope.items(node.inputs[0]);
  if (!data) return { dtype: 'int64', shape: [null, null] };
  if (!items || !isNumeric(items) || !isNumeric(data)) return { dtype: 'int64', shape: [data.length, null] };
  const found: number[][] = [];
  build(data, (index) => {
    if (itemAt(data, items, index) !== 0) found.push([...index]);
    return null;
  });
  return {
    dtype: 'int64',
    shape: [data.length, found.length],
    items: data.flatMap((_, axis) => found.map((index) => index[axis]!)),
  };
}

function oneHot(node: Node, scope: Scope): Inferred {
  const indices = shapeAt(node, 0);
  const dtype = dtypeAt(node, 2);
  if (!indices) return { dtype, shape: null };
  const depth = scope.items(node.inputs[1])?.[0] ?? null;
  const axis = normalAxis(node.int('axis', -1), indices.length + 1);
  return { dtype, shape: indices.toSpliced(axis, 0, depth) };
}

function topK(node: Node, scope: Scope): readonly Inferred[] {
  const data = shapeAt(node, 0);
  const axis = data && normalAxis(node.int('axis', -1), data.length);
  const shape = data?.with(axis!, scope.items(node.inputs[1])?.[0] ?? null) ?? null;
  return [
    { dtype: dtypeAt(node, 0), shape },
    { dtype: 'int64', shape },
  ];
}

const one =
  (infer: (node: Node, scope: Scope) => Inferred): Rule =>
  (node, scope) => [infer(node, scope)];

/** Operators that read or write by position, and those that make positions. */
export const indexingRules: Readonly<Record<string, Rule>> = {
  Gather: one(gather),
  GatherElements: one((node) => withShape(node, 1)),
  GatherND: one(gatherNd),
  Scatter: one(scatter),
  ScatterElements: one(scatter),
  ScatterND: one(scatter),
  Range: one(range),
  ConstantOfShape: one(constantOfShape),
  EyeLike: one((node) => ({
    dtype: dtypeOf(node.int('dtype', 0)) ?? dtypeAt(node, 0),
    shape: shapeAt(node, 0),
  })),
  NonZero: one(nonZero),
  OneHot: one(oneHot),
  TopK: topK,
  Compress: one((node) => ({
    dtype: dtypeAt(node, 0),
    shape: node.attributes.has('axis')
      ? (shapeAt(node, 0)?.with(normalAxis(node.int('axis', 0), shapeAt(node, 0)!.length), null) ?? null)
      : [null],
  })),
  ReverseSequence: sameAsInput,
};
