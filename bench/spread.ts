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
