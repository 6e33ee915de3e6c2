import type { Allocation } from './events.ts';
import type { ModuleRow } from './modules.ts';

export interface Point {
  readonly step: number;
  readonly value: number;
}

/** Steps on each side of a point that its smooth value averages over: 2 % of the run, at least 2. */
export const smoothingReach = (length: number): number => Math.max(2, Math.round(length / 50));

/**
 * Centred weighted mean over `reach` points on each side, fewer near the ends (the window stays centred, so nothing
 * lags behind). Points that are not finite are left out of every mean.
 */
export function smooth(points: readonly Point[], weights: readonly number[], reach: number): Point[] {
  // Running sums, so that a long run costs no more a point than a short one.
  const sums = [0];
  const counts = [0];
  points.forEach(({ value }, i) => {
    const weight = Number.isFinite(value) ? weights[i]! : 0;
    sums.push(sums[i]! + (weight > 0 ? value * weight : 0));
    counts.push(counts[i]! + weight);
  });
  return points.map(({ step }, i) => {
    const side = Math.min(reach, i, points.length - 1 - i);
    const weight = counts[i + side + 1]! - counts[i - side]!;
    return { step, value: weight > 0 ? (sums[i + side + 1]! - sums[i - side]!) / weight : Number.NaN };
  });
}

/** At most about `limit` points with the same outline: each stretch keeps its lowest and its highest, in order. */
export function outline(points: readonly Point[], limit: number): readonly Point[] {
  const finite = points.filter((p) => Number.isFinite(p.value));
  if (finite.length <= limit) return finite;
  const size = Math.ceil(finite.length / Math.floor(limit / 2));
  const kept: Point[] = [];
  for (let start = 0; start < finite.length; start += size) {
    const stretch = finite.slice(start, start + size);
    const low = stretch.reduce((a, b) => (b.value < a.value ? b : a));
    const high = stretch.reduce((a, b) => (b.value > a.value ? b : a));
    kept.push(...(low === high ? [low] : low.step < high.step ? [low, high] : [high, low]));
  }
  return kept;
}

/** At most `limit` items, the first and the last among them, evenly spread. */
export function sampled<T>(items: readonly T[], limit: number): readonly T[] {
  if (items.length <= limit) return items;
  return Array.from({ length: limit }, (_, i) => items[Math.round((i * (items.length - 1)) / (limit - 1))]!);
}

export interface BudgetPoint {
  readonly step: number;
  readonly ranks: number;
  /** Undefined where the size of a module with ranks is unknown. */
  readonly parameters?: number;
}

/** Live ranks and trained scalars from step 0 on, one point where they may change, and one at the last step. */
export function budgetOverTime(
  modules: readonly ModuleRow[],
  allocations: readonly Allocation[],
  lastStep: number,
): BudgetPoint[] {
  const known = modules.every((m) => m.cost !== undefined);
  const at = (step: number, rankOf: (m: ModuleRow) => number): BudgetPoint => ({
    step,
    ranks: modules.reduce((sum, m) => sum + rankOf(m), 0),
    parameters: known ? modules.reduce((sum, m) => sum + rankOf(m) * m.cost!, 0) : undefined,
  });
  const points = [at(0, (m) => m.before), ...allocations.map((e) => at(e.step, (m) => e.ranks[m.name] ?? 0))];
  const last = points.at(-1)!;
  return last.step < lastStep ? [...points, { ...last, step: lastStep }] : points;
}
