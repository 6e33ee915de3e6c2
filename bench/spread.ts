import { median } from '../src/compare/statistics.ts';

/** A median and the range of what it stands for. */
export interface Spread {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

export function spread(values: readonly number[]): Spread {
  return { median: median(values), low: Math.min(...values), high: Math.max(...values) };
}

/**
 * `above` to `below`, each measured by turns: the ratio of the medians over all turns, and the range of the ratios
 * within a turn, in which both met the same machine.
 */
export function pairedRatio(
  above: readonly (readonly number[])[],
  below: readonly (readonly number[])[],
): Spread {
  const turns = above.slice(0, below.length).map((values, turn) => median(values) / median(below[turn]!));
  return { ...spread(turns), median: median(above.flat()) / median(below.flat()) };
}

export const seconds = (value: number): string => `${value.toFixed(2)} s`;
export const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;
export const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

/** `2.16 (2.05 .. 2.31)`; the range is left out where there is but one value. */
export function withRange({ median, low, high }: Spread, digits = 2): string {
  const range = low === high ? '' : ` (${low.toFixed(digits)} .. ${high.toFixed(digits)})`;
  return `${median.toFixed(digits)}${range}`;
}
