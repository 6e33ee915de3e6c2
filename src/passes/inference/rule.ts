import type { DType } from '../../onnx/dtype.ts';
import { isFloat } from '../../onnx/dtype.ts';
import type { Dim, Node, Value } from '../../onnx/graph.ts';
import type { Tensor } from '../../onnx/tensor.ts';

/** What is known about one output. `items` are the elements, row major, of a small tensor of known shape. */
export interface Inferred {
  readonly dtype: DType | null;
  /** null: rank unknown. */
  readonly shape: readonly Dim[] | null;
  readonly items?: readonly Dim[];
}

export interface Scope {
  /** Elements of a small tensor: lengths and sums of lengths for integers, plain numbers for floats, 0 and 1 for booleans. */
  items(value: Value | null | undefined): readonly Dim[] | undefined;
  /** Infers a subgraph and returns what is known of its outputs. */
  outputsOf(branch: Node, attribute: string): readonly Inferred[];
}

/** Types of the node's outputs, from those of its inputs. Anything that is not certain is null. */
export type Rule = (node: Node, scope: Scope) => readonly Inferred[];

/** Tensors with more elements than this are not followed element by element. */
export const itemLimit = 1024;

export const unknown: Inferred = { dtype: null, shape: null };

export const dtypeAt = (node: Node, index: number): DType | null => node.inputs[index]?.dtype ?? null;
export const shapeAt = (node: Node, index: number): readonly Dim[] | null =>
  node.inputs[index]?.shape ?? null;

/** An axis counted from the front. */
export const normalAxis = (axis: number, rank: number): number => (axis < 0 ? axis + rank : axis);

export function isNumeric(shape: readonly Dim[] | null): shape is readonly number[] {
  return shape?.every((dim) => typeof dim === 'number') ?? false;
}

export const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** One dimension of two broadcast tensors; a length of 1 stretches, so two different names decide nothing. */
function broadcastDim(a: Dim, b: Dim): Dim {
  if (a === b || b === 1) return a;
  if (a === 1) return b;
  if (typeof a === 'number') return typeof b === 'number' ? null : a;
  return typeof b === 'number' ? b : null;
}

export function broadcast(...shapes: (readonly Dim[] | null)[]): readonly Dim[] | null {
  if (shapes.some((shape) => shape === null)) return null;
  const all = shapes as (readonly Dim[])[];
  const rank = Math.max(0, ...all.map((shape) => shape.length));
  return Array.from({ length: rank }, (_, axis) =>
    all
      .map((shape): Dim => {
        const own = axis - rank + shape.length;
        return own < 0 ? 1 : shape[own]!;
      })
      .reduce(broadcastDim),
  );
}

/** Row-major elements of a tensor of this shape, from their coordinates. */
export function build(shape: readonly number[], at: (index: readonly number[]) => Dim): Dim[] {
  const index = shape.map(() => 0);
  return Array.from({ length: sizeOf(shape) }, () => {
    const item = at(index);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis]!++;
      if (index[axis]! < shape[axis]!) break;
      index[axis] = 0;
    }
    return item;
  });
}

/** Element at coordinates of a possibly larger rank, as broadcasting reads it. */
export function itemAt(shape: readonly number[], items: readonly Dim[], index: readonly number[]): Dim {
  let flat = 0;
  const skip = index.length - shape.length;
  shape.forEach((dim, axis) => {
    flat = flat * dim + (dim === 1 ? 0 : index[axis + skip]!);
  });
  return items[flat] ?? null;
}

/** The result of an element-wise operator, elements included where those of all inputs are known. */
export function elementwise(
  values: readonly (Value | null)[],
  dtype: DType | null,
  scope: Scope,
  apply?: (items: readonly Dim[]) => Dim,
): Inferred {
  const shape = broadcast(...values.map((value) => value?.shape ?? null));
  if (!apply || !isNumeric(shape) || sizeOf(shape) > itemLimit) return { dtype, shape };
  const items = values.map((value) => scope.items(value));
  if (items.some((list) => list === undefined)) return { dtype, shape };
  return {
    dtype,
    shape,
    items: build(shape, (index) =>
      rounded(apply(values.map((value, i) => itemAt(value!.shape as number[], items[i]!, index))), dtype),
    ),
  };
}

/** Whether a number is one of an integer type, exactly; where it is not, arithmetic would wrap around. */
function isInteger(item: number, dtype: DType): boolean {
  if (!Number.isSafeInteger(item)) return false;
  if (dtype === 'bool') return item === 0 || item === 1;
  const unsigned = dtype.startsWith('uint');
  const bits = Number(/\d+$/.exec(dtype)?.[0] ?? 64);
  return item >= (unsigned ? 0 : -(2 ** (bits - 1))) && item < 2 ** (unsigned ? bits : bits - 1);
}

/** A computed number as the type stores it; null where it would not be exact. */
export function rounded(item: Dim, dtype: DType | null): Dim {
  if (typeof item !== 'number') return item;
  if (dtype === 'float32') return Math.fround(item);
  if (dtype === 'float64') return item;
  if (dtype === null || isFloat(dtype)) return null;
  return isInteger(item, dtype) ? item : null;
}

/** The ends of int64, which say "to the end" in slices: of all integers between the floats they alone are followed. */
const ends: readonly number[] = [-(2 ** 63), 2 ** 63];

/** Elements of a small constant; null for integers that a number only comes near to. */
export function tensorItems(tensor: Tensor): readonly Dim[] | undefined {
  if (tensor.size > itemLimit || /^(string|complex|float8)/.test(tensor.dtype)) return undefined;
  const items = tensor.toNumbers();
  if (!/^u?int64$/.test(tensor.dtype)) return items;
  return items.map((item) => (Number.isSafeInteger(item) || ends.includes(item) ? item : null));
}

/** dtype and shape of the first input, once per output. */
export const sameAsInput: Rule = (node) =>
  node.outputs.map(() => ({ dtype: dtypeAt(node, 0), shape: shapeAt(node, 0) }));
