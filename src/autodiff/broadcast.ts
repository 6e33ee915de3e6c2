import type { Dim } from '../onnx/graph.ts';

type Shape = readonly Dim[] | null;

/**
 * Shape of an elementwise result under numpy broadcasting; null (a dimension, or the whole) where the
 * operands' shapes leave it open.
 */
export function broadcastShape(a: Shape, b: Shape): Shape {
  if (!a || !b) return null;
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const p = a[a.length - rank + i] === undefined ? 1 : a[a.length - rank + i]!;
    const q = b[b.length - rank + i] === undefined ? 1 : b[b.length - rank + i]!;
    if (p === 1) return q;
    if (q === 1 || p === q) return p;
    // A length other than 1 decides: its partner is equal to it or 1.
    if (typeof p === 'number') return p;
    return typeof q === 'number' ? q : null;
  });
}

/** Whether two shapes are surely equal. */
export function sameShape(a: Shape, b: Shape): boolean {
  if (!a || !b || a.length !== b.length) return false;
  return a.every((dim, i) => dim !== null && dim === b[i]);
}

/** Which axes of a gradient must be summed so that it fits the operand it belongs to. */
export interface Reduction {
  /** Leading axes that the operand lacks: [0, leading). */
  readonly leading: number;
  /** Axes that are 1 in the operand and may be longer in the gradient, counted in the gradient. */
  readonly ones: readonly number[];
}

/**
 * The reduction from a gradient's shape to an operand's, where the shapes decide it; null where only the
 * lengths at run time can: an unknown rank, or a dimension that may be 1 (`n` against `m`).
 */
export function reduction(gradient: Shape, operand: Shape): Reduction | null {
  if (!gradient || !operand || operand.length > gradient.length) return null;
  const leading = gradient.length - operand.length;
  const ones: number[] = [];
  for (const [i, dim] of operand.entries()) {
    const long = gradient[leading + i]!;
    if (long === 1 || (dim !== null && dim === long)) continue;
    if (dim === 1) ones.push(leading + i);
    else if (typeof dim !== 'number') return null;
  }
  return { leading, ones };
}

/** Shape of a reduction over axes (null: all of them), which stay as 1 or go. */
export function reducedShape(shape: Shape, axes: readonly number[] | null, keep: boolean): Shape {
  if (!shape) return axes || keep ? null : [];
  const gone = axes ? new Set(axes.map((axis) => (axis < 0 ? axis + shape.length : axis))) : null;
  const reducedAway = (i: number) => !gone || gone.has(i);
  if (keep) return shape.map((dim, i) => (reducedAway(i) ? 1 : dim));
  return shape.filter((_, i) => !reducedAway(i));
}
