import type { Dim, Node, Value } from '../../onnx/graph.ts';
import { add, divide, divideExactly, isNonNegative, multiply, product, subtract } from '../symbolic.ts';
import {
  broadcast,
  build,
  dtypeAt,
  type Inferred,
  isNumeric,
  itemAt,
  itemLimit,
  normalAxis,
  type Rule,
  type Scope,
  shapeAt,
  sizeOf,
} from './rule.ts';

/** The same elements in another shape. */
function reshaped(value: Value | null | undefined, shape: readonly Dim[] | null, scope: Scope): Inferred {
  const items = scope.items(value);
  const dtype = value?.dtype ?? null;
  return items && isNumeric(shape) && sizeOf(shape) === items.length
    ? { dtype, shape, items }
    : { dtype, shape };
}

const nulls = (rank: Dim | undefined): Dim[] | null =>
  typeof rank === 'number' ? Array.from({ length: rank }, () => null) : null;

/** Integers that an operator takes as an attribute in old and as an input in new operator sets. */
export function integers(node: Node, scope: Scope, index: number, name: string): readonly Dim[] | undefined {
  return node.inputs[index] ? scope.items(node.inputs[index]) : node.ints(name);
}

function whole(list: readonly Dim[] | undefined): readonly number[] | undefined {
  return isNumeric(list ?? null) ? (list as number[]) : undefined;
}

function reshape(node: Node, scope: Scope): Inferred {
  const data = shapeAt(node, 0);
  const target = integers(node, scope, 1, 'shape');
  if (!target) return { dtype: dtypeAt(node, 0), shape: nulls(shapeAt(node, 1)?.[0]) };
  const copies = node.int('allowzero', 0) === 0;
  const shape = target.map((item, axis): Dim => {
    if (item === 0 && copies) return data?.[axis] ?? null;
    return item === -1 || !isNonNegative(item) ? null : item;
  });
  const open = shape.flatMap((dim, axis) => (dim === null ? [axis] : []));
  if (data && open.length === 1) {
    // Equal dims cancel first, known or not named; the rest divides symbolically.
    const [axis] = open as [number];
    const others = product(shape.filter((_, i) => i !== axis));
    const quotient = others === 0 ? undefined : divideExactly(product(data), others);
    if (quotient !== undefined) shape[axis] = quotient;
  }
  return reshaped(node.inputs[0], shape, scope);
}

function unsqueeze(node: Node, scope: Scope): Inferred {
  const data = shapeAt(node, 0);
  const axes = whole(integers(node, scope, 1, 'axes'));
  if (!data || !axes) return { dtype: dtypeAt(node, 0), shape: null };
  const rank = data.length + axes.length;
  const added = new Set(axes.map((axis) => normalAxis(axis, rank)));
  const rest = [...data];
  const shape = Array.from({ length: rank }, (_, axis) => (added.has(axis) ? 1 : rest.shift()!));
  return reshaped(node.inputs[0], shape, scope);
}

function squeeze(node: Node, scope: Scope): Inferred {
  const data = shapeAt(node, 0);
  const given = node.inputs[1] ? scope.items(node.inputs[1]) : (node.ints('axes') ?? 'ones');
  if (!data || !given) return { dtype: dtypeAt(node, 0), shape: null };
  if (given === 'ones') {
    if (!isNumeric(data)) return { dtype: dtypeAt(node, 0), shape: null };
    return reshaped(
      node.inputs[0],
      data.filter((dim) => dim !== 1),
      scope,
    );
  }
  const axes = whole(given);
  if (!axes) return { dtype: dtypeAt(node, 0), shape: null };
  const gone = new Set(axes.map((axis) => normalAxis(axis, data.length)));
  return reshaped(
    node.inputs[0],
    data.filter((_, axis) => !gone.has(axis)),
    scope,
  );
}

function flatten(node: Node, scope: Scope): Inferred {
  const data = shapeAt(node, 0);
  if (!data) return { dtype: dtypeAt(node, 0), shape: [null, null] };
  const axis = normalAxis(node.int('axis', 1), data.length);
  return reshaped(node.inputs[0], [product(data.slice(0, axis)), product(data.slice(axis))], scope);
}

function transpose(node: Node, scope: Scope): Inferred {
  const data = shapeAt(node, 0);
  const dtype = dtypeAt(node, 0);
  if (!data) return { dtype, shape: null };
  const order = node.ints('perm') ?? data.map((_, axis) => data.length - 1 - axis);
  const shape = order.map((axis) => data[axis]!);
  const items = scope.items(node.inputs[0]);
  if (!items || !isNumeric(shape)) return { dtype, shape };
  return {
    dtype,
    shape,
    items: build(shape, (index) => {
      const source = [...index];
      order.forEach((axis, i) => {
        source[axis] = index[i]!;
      });
      return itemAt(data as number[], items, source);
    }),
  };
}

function expand(node: Node, scope: Scope): Inferred {
  const dtype = dtypeAt(node, 0);
  const target = scope.items(node.inputs[1]);
  const data = shapeAt(node, 0);
  const length = shapeAt(node, 1)?.[0];
  const wanted =
    target?.map((item) => (isNonNegative(item) ? item : null)) ??
    nulls(typeof length === 'number' ? length : undefined);
  const shape = broadcast(data, wanted);
  const items = scope.items(node.inputs[0]);
  if (!items || !isNumeric(shape) || sizeOf(shape) > itemLimit) return { dtype, shape };
  return { dtype, shape, items: build(shape, (index) => itemAt(data as number[], items, index)) };
}

function concat(node: Node, scope: Scope): Inferred {
  const dtype = dtypeAt(node, 0);
  const shapes = node.inputs.map((value) => value?.shape ?? null);
  const known = shapes.filter((shape) => shape !== null);
  if (known.length === 0) return { dtype, shape: null };
  const rank = known[0]!.length;
  const axis = normalAxis(node.int('axis', 0), rank);
  const shape = Array.from({ length: rank }, (_, i): Dim => {
    if (i === axis) return shapes.reduce((sum: Dim, s) => add(sum, s?.[i] ?? null), 0);
    // All inputs have equal lengths here, so whichever is known speaks for the others; numbers before names.
    const dims = known.map((s) => s[i]!);
    return dims.find((dim) => typeof dim === 'number') ?? dims.find((dim) => dim !== null) ?? null;
  });
  if (!isNumeric(shape) || sizeOf(shape) > itemLimit) return { dtype, shape };
  const parts = node.inputs.map((value) => scope.items(value));
  // In shape vectors an unknown part leaves its neighbours known.
  if (parts.every((items) => items === undefined)) return { dtype, shape };
  return {
    dtype,
    shape,
    items: build(shape, (index) => {
      let at = index[axis]!;
      for (let part = 0; part < parts.length; part++) {
        const length = shapes[part]![axis] as number;
        if (at < length) {
          const items = parts[part];
          return items ? itemAt(shapes[part] as number[], items, index.with(axis, at)) : null;
        }
        at -= length;
      }
      return null;
    }),
  };
}

function split(node: Node, scope: Scope): readonly Inferred[] {
  const dtype = dtypeAt(node, 0);
  const data = shapeAt(node, 0);
  if (!data) return node.outputs.map(() => ({ dtype, shape: null }));
  const axis = normalAxis(node.int('axis', 0), data.length);
  const given = integers(node, scope, 1, 'split');
  const count = node.int('num_outputs', node.outputs.length);
  const total = data[axis]!;
  const lengths =
    given ?? (node.inputs[1] ? node.outputs.map(() => null) : evenParts(total, count, node.outputs.length));
  const items = scope.items(node.inputs[0]);
  let start: Dim = 0;
  return node.outputs.map((_, i) => {
    const length = lengths[i] ?? null;
    const shape = data.with(axis, length);
    const from = start;
    start = add(start, length);
    if (!items || !isNumeric(shape) || typeof from !== 'number') return { dtype, shape };
    return {
      dtype,
      shape,
      items: build(shape, (index) => itemAt(data as number[], items, index.with(axis, index[axis]! + from))),
    };
  });
}

/** Equal parts, the last one smaller when they do not divide (opset 18). */
function evenParts(total: Dim, count: number, outputs: number): Dim[] {
  if (typeof total === 'number') {
    const part = Math.ceil(total / count);
    return Array.from({ length: outputs }, (_, i) => Math.max(0, Math.min(part, total - i * part)));
  }
  const exact = divideExactly(total, count) ?? null;
  return Array.from({ length: outputs }, () => exact);
}

/** Beyond any length: "to the end" in slices. */
const endless = 2 ** 31 - 1;

/**
 * A slice bound as a position from the front. Names are taken to stay within numbers (a table of 1024 positions
 * sliced at sequence_length), since the models that do otherwise fail elsewhere; other doubts give null.
 */
function bound(position: Dim, dim: Dim): Dim {
  if (position === null || position === 0) return position;
  if (typeof position === 'number' && position >= endless) return dim;
  if (typeof position === 'number' && position <= -endless) return 0;
  if (dim === null) return null;
  if (typeof position === 'number') {
    if (typeof dim === 'number') return Math.max(0, Math.min(dim, position < 0 ? position + dim : position));
    if (position === 1) return 1;
    return position < 0 ? subtract(dim, -position) : null;
  }
  const front = isNonNegative(subtract(0, position)) ? add(dim, position) : position;
  if (!isNonNegative(front)) return null;
  if (typeof dim === 'number' || isNonNegative(subtract(dim, front))) return front;
  return isNonNegative(subtract(front, dim)) ? dim : null;
}

function sliceLength(dim: Dim, start: Dim, end: Dim, step: Dim): Dim {
  if (typeof step !== 'number') return null;
  if (step < 0) {
    // Reversal of everything, which is what exporters write; other backward slices need numbers.
    const whole =
      (start === -1 || (typeof start === 'number' && start >= endless)) && typeof end === 'number';
    if (step === -1 && whole && end <= -endless) return dim;
    if (typeof dim !== 'number' || typeof start !== 'number' || typeof end !== 'number') return null;
    const from = Math.min(dim - 1, start < 0 ? start + dim : start);
    const to = Math.max(-1, end < 0 ? end + dim : end);
    return Math.max(0, Math.ceil((to - from) / step));
  }
  const length = subtract(bound(end, dim), bound(start, dim));
  if (length === null) return null;
  const steps = (n: Dim) => (step === 1 ? n : divide(add(n, step - 1), step));
  if (typeof length === 'number') return steps(Math.max(0, length));
  // 'sequence_length - 1' is the shift of labels against logits: at least one position is assumed there.
  if (isNonNegative(length) || isNonNegative(add(length, 1))) return steps(length);
  return null;
}

function slice(node: Node, scope: Scope): Inferred {
  const dtype = dtypeAt(node, 0);
  const data = shapeAt(node, 0);
  if (!data) return { dtype, shape: null };
  const starts = integers(node, scope, 1, 'starts');
  const ends = integers(node, scope, 2, 'ends');
  const count = starts?.length ?? ends?.length ?? (shapeAt(node, 1)?.[0] as number | undefined);
  const axes =
    whole(integers(node, scope, 3, 'axes')) ??
    (node.inputs[3] || count === undefined ? undefined : Array.from({ length: count }, (_, i) => i));
  if (!axes) return { dtype, shape: data.map(() => null) };
  const steps = node.inputs[4] ? scope.items(node.inputs[4]) : axes.map(() => 1);
  const shape = [...data];
  const from = data.map(() => 0 as Dim);
  const by = data.map(() => 1 as Dim);
  axes.forEach((given, i) => {
    const axis = normalAxis(given, data.length);
    shape[axis] = sliceLength(data[axis]!, starts?.[i] ?? null, ends?.[i] ?? null, steps?.[i] ?? null);
    by[axis] = steps?.[i] ?? null;
    const start = starts?.[i] ?? null;
    const dim = data[axis]!;
    from[axis] =
      typeof by[axis] === 'number' && by[axis] < 0 && typeof dim === 'number' && typeof start === 'number'
        ? Math.min(dim - 1, start < 0 ? start + dim : start)
        : bound(start, dim);
  });
  const items = scope.items(node.inputs[0]);
  if (!items || !isNumeric(shape) || !isNumeric(from) || !isNumeric(by)) return { dtype, shape };
  return {
    dtype,
    shape,
    items: build(shape, (index) =>
      itemAt(
        data as number[],
        items,
        index.map((at, axis) => (from[axis] as number) + at * (by[axis] as number)),
      ),
    ),
  };
}

function pad(node: Node, scope: Scope): Inferred {
  const dtype = dtypeAt(node, 0);
  const data = shapeAt(node, 0);
  const pads = integers(node, scope, 1, 'pads');
  if (!data) return { dtype, shape: null };
  const axes = node.inputs[3] ? whole(scope.items(node.inputs[3])) : data.map((_, axis) => axis);
  if (!pads || !axes) return { dtype, shape: data.map(() => null) };
  const shape = [...data];
  axes.forEach((given, i) => {
    const axis = normalAxis(given, data.length);
    shape[axis] = add(data[axis]!, add(pads[i] ?? null, pads[i + axes.length] ?? null));
  });
  return { dtype, shape };
}

function tile(node: Node, scope: Scope): Inferred {
  const dtype = dtypeAt(node, 0);
  const data = shapeAt(node, 0);
  const repeats = scope.items(node.inputs[1]);
  return { dtype, shape: data?.map((dim, axis) => multiply(dim, repeats?.[axis] ?? null)) ?? null };
}

function shapeOf(node: Node): Inferred {
  const data = shapeAt(node, 0);
  if (!data) return { dtype: 'int64', shape: [null] };
  const clamp = (at: number) => Math.max(0, Math.min(data.length, normalAxis(at, data.length)));
  const items = data.slice(clamp(node.int('start', 0)), clamp(node.int('end', data.length)));
  return { dtype: 'int64', shape: [items.length], items };
}

const one =
  (infer: (node: Node, scope: Scope) => Inferred): Rule =>
  (node, scope) => [infer(node, scope)];

/** Operators that only move elements, and those that read shapes. */
export const shapeRules: Readonly<Record<string, Rule>> = {
  Identity: one((node, scope) => reshaped(node.inputs[0], shapeAt(node, 0), scope)),
  Shape: one(shapeOf),
  Size: one((node) => {
    const data = shapeAt(node, 0);
    return data ? { dtype: 'int64', shape: [], items: [product(data)] } : { dtype: 'int64', shape: [] };
  }),
  Reshape: one(reshape),
  Unsqueeze: one(unsqueeze),
  Squeeze: one(squeeze),
  Flatten: one(flatten),
  Transpose: one(transpose),
  Expand: one(expand),
  Concat: one(concat),
  Split: split,
  Slice: one(slice),
  Pad: one(pad),
  Tile: one(tile),
};
