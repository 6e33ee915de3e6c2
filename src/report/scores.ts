import { z } from 'zod';

const score = z.union([z.number(), z.null().transform(() => Number.NaN)]);

/** `scores/round-N.json`: every rank of every module, those without ranks as `[]`. Scores are minus a loss in nats. */
export const scoresSchema = z.object({
  scorer: z.string(),
  examples: z.number().optional(),
  /** S of the whole network. */
  full: score.optional(),
  /** S with no rank on. */
  base: score.optional(),
  modules: z.record(
    z.string(),
    z.array(
      z.object({ index: z.number(), without: score.optional(), only: score.optional(), importance: score }),
    ),
  ),
});

export type Scores = z.output<typeof scoresSchema>;

/** The scores of one round and which ranks that round removed. */
export interface ScoredRound {
  readonly round: number;
  readonly step: number;
  readonly scores: Scores;
  /** `module index` of each pruned rank. */
  readonly pruned: ReadonlySet<string>;
}

/** Importance in nats, by switching ranks off and on; other scorers (sensitivity, dnas) have a scale of their own. */
export const isAblation = ({ modules }: Scores): boolean =>
  Object.values(modules).some((ranks) => ranks.some(({ without }) => Number.isFinite(without)));

/** Score of a rank that does nothing: that of no rank at all. Only ablation has one. */
export const idleScore = (scores: Scores): number | undefined =>
  isAblation(scores) && Number.isFinite(scores.base) ? scores.base : undefined;

/** Value at `share` (0..1) of an ascending list, interpolated linearly. */
export function quantile(sorted: readonly number[], share: number): number {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low]! + (sorted[high]! - sorted[low]!) * (at - low);
}
