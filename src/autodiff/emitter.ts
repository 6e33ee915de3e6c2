import type { Builder } from '../onnx/builder.ts';
import { codeOf, type DType } from '../onnx/dtype.ts';
import type { AttributeInit, Dim, Value } from '../onnx/graph.ts';
import { Lengths } from '../passes/lengths.ts';
import { broadcastShape, reducedShape, reduction, sameShape } from './broadcast.ts';
import { constantOf, permutation } from './constants.ts';
import { fillsAxis, merge, type Pieces } from './pieces.ts';

type Attributes = Readonly<Record<string, AttributeInit | undefined>>;
type Shape = readonly Dim[] | null;

interface Type {
  readonly dtype?: DType | null;
  readonly shape?: Shape;
}

/**
 * Writes gradient nodes: a builder that also knows the operator set, keeps the shapes that it can tell, takes
 * plain numbers as operands, and leaves out what would do nothing (a product with 1, a transpose of a
 * transpose, an Expand whose result is only multiplied).
 */
export class Emitter {
  /** Name of the forward node whose gradient is being written; part of the names of new nodes. */
  scope = '';
  /** Lengths of values as int64 vectors. */
  readonly lengths: Lengths;
  /** Products with a number: what was multiplied, by how much. A further factor joins the first. */
  private readonly scaled = new Map<Value, { source: Value; factor: number }>();
  /** Values that are zero but for pieces along one axis. When the pieces fill it, they are joined instead. */
  private readonly pieces = new Map<Value, Pieces>();
  /** Results of expandTo: what was expanded. Elementwise operators may read the source instead. */
  private readonly expanded = new Map<Value, { source: Value; like: Value }>();

  constructor(
    readonly builder: Builder,
    /** Version of ai.onnx that the emitted forms must be valid in, at least 13. */
    readonly opset: number,
  ) {
    this.lengths = new Lengths(builder);
  }

  /** One node with one output, which has the first input's dtype unless `type` says otherwise. */
  op(op: string, inputs: readonly (Value | null)[], attributes: Attributes = {}, type: Type = {}): Value {
    const dtype = type.dtype === undefined ? (inputs[0]?.dtype ?? null) : type.dtype;
    const name = this.scope === '' ? op : `${this.scope}/${op}`;
    return this.builder.op(op, inputs, { name, attributes, dtype, shape: type.shape ?? null });
  }

  // Elementwise

  unary(op: string, x: Value, attributes: Attributes = {}): Value {
    return this.op(op, [x], attributes, { shape: x.shape });
  }
  neg(x: Value): Value {
    return this.mul(x, -1);
  }

  add(a: Value, b: Value | number): Value {
    if (b === 0) return a;
    const merged = typeof b === 'number' ? undefined : merge(this.pieces.get(a), this.pieces.get(b));
    if (merged && fillsAxis(merged)) {
      const values = merged.parts.map(({ value }) => value);
      return this.concat(values, merged.axis, a.shape);
    }
    const sum = this.binary('Add', a, b);
    if (merged) this.pieces.set(sum, merged);
    return sum;
  }
  sub(a: Value | number, b: Value | number): Value {
    return this.binary('Sub', a, b);
  }
  mul(a: Value, b: Value | number): Value {
    if (typeof b !== 'number') return this.binary('Mul', a, b);
    const before = this.scaled.get(a);
    if (before) return this.mul(before.source, before.factor * b);
    if (b === 1) return a;
    const product = b === -1 ? this.unary('Neg', a) : this.binary('Mul', a, b);
    this.scaled.set(product, { source: a, factor: b });
    return product;
  }
  div(a: Value | number, b: Value | number): Value {
    if (b === 1 && typeof a !== 'number') return a;
    return this.binary('Div', a, b);
  }

  /** scale x + offset in one pass, where that surely lies between 0 and 1. */
  portion(x: Value, scale: number, offset: number): Value {
    if (this.dtype(x) !== 'float32') return this.add(this.mul(x, scale), offset);
    const float = (value: number) => ({ type: 'float', value }) as const;
    return this.unary('HardSigmoid', x, { alpha: float(scale), beta: float(offset) });
  }

  private binary(op: string, a: Value | number, b: Value | number): Value {
    const like = (typeof a === 'number' ? b : a) as Value;
    const left = typeof a === 'number' ? this.builder.scalar(a, this.dtype(like)) : a;
    const right = typeof b === 'number' ? this.builder.scalar(b, this.dtype(like)) : b;
    const [wide, other] = [this.expanded.get(left), this.expanded.get(right)];
    // A number acts on what was expanded; with a value of the whole shape, broadcasting expands it.
    if (wide && typeof b === 'number') return this.expandTo(this.binary(op, wide.source, right), wide.like);
    if (wide && this.fills(right, wide.like)) return this.binary(op, wide.source, right);
    if (other && this.fills(left, other.like)) return this.binary(op, left, other.source);
    return this.op(
      op,
      [left, right],
      {},
      { dtype: like.dtype, shape: broadcastShape(left.shape, right.shape) },
    );
  }

  /** Whether a value surely has the shape of another, and is not expanded itself. */
  private fills(value: Value, like: Value): boolean {
    return !this.expanded.has(value) && (value === like || sameShape(value.shape, like.shape));
  }

  where(condition: Value, a: Value | number, b: Value | number): Value {
    const like = (typeof a === 'number' ? b : a) as Value;
    const left = typeof a === 'number' ? this.builder.scalar(a, this.dtype(like)) : a;
    const right = typeof b === 'number' ? this.builder.scalar(b, this.dtype(like)) : b;
    const shape = broadcastShape(condition.shape, broadcastShape(left.shape, right.shape));
    return this.op('Where', [condition, left, right], {}, { dtype: like.dtype, shape });
  }

  /** Equal, Greater, Less, GreaterOrEqual, LessOrEqual. */
  compare(op: string, a: Value, b: Value | number): Value {
    const right = typeof b === 'number' ? this.builder.scalar(b, this.dtype(a)) : b;
    return this.op(op, [a, right], {}, { dtype: 'bool', shape: broadcastShape(a.shape, right.shape) });
  }

  cast(x: Value, dtype: DType): Value {
    if (x.dtype === dtype) return x;
    return this.op('Cast', [x], { to: codeOf(dtype) }, { dtype, shape: x.shape });
  }

  /** The element type of a value on the differentiated path (differentiate fills in missing ones). */
  dtype(value: Value): DType {
    return value.dtype ?? 'float32';
  }

  // Reductions

  /** Sum over axes; all of them when `axes` is null. */
  reduceSum(x: Value, axes: readonly number[] | null, keep: boolean): Value {
    if (axes?.length === 0) return x;
    return this.op(
      'ReduceSum',
      axes ? [x, this.builder.ints(axes)] : [x],
      { keepdims: keep ? 1 : 0 },
      { shape: reducedShape(x.shape, axes, keep) },
    );
  }

  /** Mean over axes. The axes are an attribute before opset 18 and an input since. */
  reduceMean(x: Value, axes: readonly number[], keep: boolean): Value {
    const byInput = this.opset >= 18;
    return this.op(
      'ReduceMean',
      byInput ? [x, this.builder.ints(axes)] : [x],
      { keepdims: keep ? 1 : 0, axes: byInput ? undefined : axes },
      { shape: reducedShape(x.shape, axes, keep) },
    );
  }

  /** Sums a gradient over the axes along which `operand` was broadcast, so that it gets the operand's shape. */
  sumTo(gradient: Value, operand: Value): Value {
    const known = reduction(gradient.shape, operand.shape);
    if (!known)
      return operand.shape?.length === 0
        ? this.reduceSum(gradient, null, false)
        : this.sumAtRunTime(gradient, operand);
    const leading = Array.from({ length: known.leading }, (_, i) => i);
    if (known.ones.length === 0) return this.reduceSum(gradient, leading, false);
    const sum = this.reduceSum(gradient, [...leading, ...known.ones], true);
    return this.squeeze(sum, leading);
  }

  /** sumTo where shapes decide only at run time: axes = where the operand's padded shape differs. */
  private sumAtRunTime(gradient: Value, operand: Value): Value {
    const int64 = { dtype: 'int64' } as const;
    const target = this.lengths.of(operand);
    const full = this.lengths.of(gradient);
    let padded = target;
    if (!gradient.shape || !operand.shape || gradient.shape.length !== operand.shape.length) {
      const missing = this.op('Sub', [
        this.op('Shape', [full], {}, int64),
        this.op('Shape', [target], {}, int64),
      ]);
      padded = this.concat([this.op('Expand', [this.builder.ints([1]), missing]), target], 0);
    }
    const differs = this.op('Not', [this.op('Equal', [padded, full], {}, { dtype: 'bool' })]);
    const axes = this.squeeze(this.op('NonZero', [differs], {}, int64), [0]);
    const attributes = { keepdims: 1, noop_with_empty_axes: 1 };
    return this.reshape(this.op('ReduceSum', [gradient, axes], attributes), target, operand.shape);
  }

  // Shapes

  /** Reshape to an explicit shape; lengths of 0 are lengths (from opset 14 on). */
  reshape(x: Value, target: Value, shape: Shape): Value {
    const allowzero = this.opset >= 14 ? 1 : undefined;
    return this.op('Reshape', [x, target], { allowzero }, { shape });
  }
  reshapeLike(x: Value, like: Value): Value {
    return this.reshape(x, this.lengths.of(like), like.shape);
  }

  /** [..., N] to [rows, N]; works where N is 0, which a Reshape to [-1, N] does not. */
  rows(x: Value): Value {
    if (x.shape?.length === 2) return x;
    return this.op('Flatten', [x], { axis: -1 }, { shape: x.shape ? [null, x.shape.at(-1) ?? null] : null });
  }

  squeeze(x: Value, axes: readonly number[]): Value {
    if (axes.length === 0) return x;
    const rank = x.shape?.length ?? 0;
    const gone = new Set(axes.map((axis) => (axis < 0 ? axis + rank : axis)));
    const shape = x.shape?.filter((_, i) => !gone.has(i)) ?? null;
    return this.op('Squeeze', [x, this.builder.ints(axes)], {}, { shape });
  }
  unsqueeze(x: Value, axes: readonly number[]): Value {
    if (axes.length === 0) return x;
    let shape: Dim[] | null = null;
    if (x.shape) {
      const rank = x.shape.length + axes.length;
      const added = new Set(axes.map((axis) => (axis < 0 ? axis + rank : axis)));
      const rest = [...x.shape];
      shape = Array.from({ length: rank }, (_, i) => (added.has(i) ? 1 : rest.shift()!));
    }
    return this.op('Unsqueeze', [x, this.builder.ints(axes)], {}, { shape });
  }

  /**
   * Transpose, or the source of the transpose that it undoes. Others are not joined: ONNX Runtime fuses a swap of the
   * last two axes into the product that reads it, and a joined permutation would have to be carried out.
   */
  transpose(x: Value, perm: readonly number[]): Value {
    if (perm.every((axis, i) => axis === i)) return x;
    const made = x.producer;
    const inner = made?.op === 'Transpose' && made.domain === '' ? permutation(made, perm.length) : undefined;
    if (inner && perm.every((axis, i) => inner[axis] === i)) return made!.inputs[0]!;
    const shape = x.shape ? perm.map((axis) => x.shape![axis]!) : null;
    return this.op('Transpose', [x], { perm }, { shape });
  }
  /** Swaps the last two axes of a value of known rank. */
  transposeLast(x: Value): Value {
    const rank = x.shape!.length;
    return this.transpose(x, [...Array(rank - 2).keys(), rank - 1, rank - 2]);
  }

  concat(parts: readonly Value[], axis: number, shape: Shape = null): Value {
    return parts.length === 1 ? parts[0]! : this.op('Concat', parts, { axis }, { shape });
  }

  /** Zeros before and after along axes of a value; amounts are int64 vectors of one element. */
  pad(x: Value, rank: number, amounts: ReadonlyMap<number, readonly [before: Value, after: Value]>): Value {
    const zero = this.builder.ints([0]);
    const sides = ([0, 1] as const).flatMap((side) =>
      Array.from({ length: rank }, (_, axis) => amounts.get(axis)?.[side] ?? zero),
    );
    const numbers = sides.map((amount) => constantOf(amount)?.[0]);
    const known = numbers.every((n) => n !== undefined);
    const padded = this.op('Pad', [
      x,
      known ? this.builder.ints(numbers as number[]) : this.concat(sides, 0),
    ]);
    const [axis, ...others] = amounts.keys();
    if (!known || axis === undefined || others.length > 0) return padded;
    const [start, after] = [numbers[axis] as number, numbers[rank + axis] as number];
    const length = x.shape?.[axis];
    if (typeof length === 'number') {
      const part = { value: x, start, end: start + length };
      this.pieces.set(padded, { axis, length: start + length + after, parts: [part] });
    }
    return padded;
  }

  /** Repeats a broadcastable value to the shape of `like`; skipped again where an elementwise operator reads it. */
  expandTo(x: Value, like: Value): Value {
    if (sameShape(x.shape, like.shape)) return x;
    const wide = this.op('Expand', [x, this.lengths.of(like)], {}, { shape: like.shape });
    this.expanded.set(wide, { source: x, like });
    return wide;
  }

  zerosLike(x: Value): Value {
    return this.op(
      'Expand',
      [this.builder.scalar(0, this.dtype(x)), this.lengths.of(x)],
      {},
      { shape: x.shape },
    );
  }

  // Matrix products

  /** Batched product of values of known rank. */
  matmul(a: Value, b: Value): Value {
    let shape: Shape = null;
    if (a.shape && b.shape && a.shape.length >= 2 && b.shape.length >= 2) {
      const batch = broadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2))!;
      shape = [...batch, a.shape.at(-2)!, b.shape.at(-1)!];
    }
    return this.op('MatMul', [a, b], {}, { shape });
  }

  /** Matrix product of 2-D values, each transposed or not, without the transpose being materialised. */
  gemm(a: Value, b: Value, flags: { transA?: boolean; transB?: boolean; alpha?: number } = {}): Value {
    const { transA = false, transB = false, alpha = 1 } = flags;
    const m = a.shape?.[transA ? 1 : 0] ?? null;
    const n = b.shape?.[transB ? 0 : 1] ?? null;
    return this.op(
      'Gemm',
      [a, b],
      {
        transA: transA ? 1 : undefined,
        transB: transB ? 1 : undefined,
        alpha: alpha === 1 ? undefined : { type: 'float', value: alpha },
      },
      { shape: [m, n] },
    );
  }
}
