import type { Value } from '../onnx/graph.ts';

/** Pieces of an axis, by place, without overlaps. */
export interface Pieces {
  readonly axis: number;
  /** Of the axis. */
  readonly length: number;
  readonly parts: readonly { readonly value: Value; readonly start: number; readonly end: number }[];
}

/** The pieces of a sum; undefined where the operands are not both pieces of one axis that lie apart. */
export function merge(a: Pieces | undefined, b: Pieces | undefined): Pieces | undefined {
  if (!a || !b || a.axis !== b.axis || a.length !== b.length) return undefined;
  const parts = [...a.parts, ...b.parts].sort((p, q) => p.start - q.start);
  const apart = parts.every((part, i) => i === 0 || parts[i - 1]!.end <= part.start);
  return apart ? { ...a, parts } : undefined;
}

/** Whether pieces follow each other from the start of the axis to its end without a gap. */
export function fillsAxis({ parts, length }: Pieces): boolean {
  return (
    parts.every((part, i) => part.start === (i === 0 ? 0 : parts[i - 1]!.end)) && parts.at(-1)!.end === length
  );
}
