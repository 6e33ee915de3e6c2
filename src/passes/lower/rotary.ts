import type { Value } from '../../onnx/graph.ts';
import type { Site } from './lowering.ts';

export interface Rotation {
  /** Broadcast to x[..., 0 : width/2]. */
  readonly cos: Value;
  readonly sin: Value;
  /** Length of the last axis of x. */
  readonly size: number;
  /** The leading part of it that turns; the rest passes through. */
  readonly width: number;
  /** Pairs are neighbours (2i, 2i+1) instead of halves (i, i + width/2). */
  readonly interleaved: boolean;
}

/** Turns pairs of the last axis by an angle: [a cos - b sin, b cos + a sin]. */
export function rotate(at: Site, x: Value, { cos, sin, size, width, interleaved }: Rotation): Value {
  const half = width / 2;
  const turning = width === size ? x : at.slice(x, -1, 0, width);
  const [a, b] = interleaved
    ? [at.slice(turning, -1, 0, width, 2), at.slice(turning, -1, 1, width, 2)]
    : (at.split(turning, [half, half], -1) as [Value, Value]);
  const mul = (p: Value, q: Value) => at.op('Mul', [p, q]);
  const real = at.op('Sub', [mul(a, cos), mul(b, sin)]);
  const imaginary = at.op('Add', [mul(b, cos), mul(a, sin)]);
  const rest = width === size ? [] : [at.slice(x, -1, width, size)];
  if (!interleaved) return at.op('Concat', [real, imaginary, ...rest], { axis: -1 });
  const pairs = at.op('Concat', [at.unsqueeze(real, [-1]), at.unsqueeze(imaginary, [-1])], { axis: -1 });
  const rank = at.shape(x).length;
  const target = Array.from({ length: rank }, (_, axis) => (axis === rank - 1 ? width : 0));
  const turned = at.reshape(pairs, target);
  return rest.length > 0 ? at.op('Concat', [turned, ...rest], { axis: -1 }) : turned;
}

/** Rows 0..S-1 of a table [positions, width/2], as [S, width/2]; S is the length of an axis of x. */
export function firstRows(at: Site, table: Value, x: Value, axis: number): Value {
  const dim = at.shape(x)[axis];
  return at.once(`rows ${table.name} ${dim ?? x.name}`, () =>
    at.op('Gather', [table, at.op('Range', [at.int(0), at.length(x, axis), at.int(1)])], { axis: 0 }),
  );
}
