import { settingsFor } from './exact.ts';
import { importanceOf, rankScore, type Scorer } from './scorer.ts';
import { taylorScores } from './taylor.ts';

/**
 * Taylor for all ranks, then ablation for the candidates (twice as many as a round takes, the lowest by Taylor).
 * Ranks are pruned by the exact numbers; the receivers are ordered by the estimates of all their ranks.
 */
export const screened = (): Scorer => ({
  async score(host, candidates) {
    const estimate = await taylorScores(host);
    const averaged = importanceOf(estimate.ranks);
    const chosen = candidates(averaged);
    const { full, base } = estimate;
    const losses = await host.losses(settingsFor(chosen));
    const ranks = estimate.ranks.map((of) => [...of]);
    const prunable = averaged.map((of) => of.map(() => Number.NaN));
    chosen.forEach(([m, i], k) => {
      const measured = rankScore(i, full, -losses[2 * k]!, -losses[2 * k + 1]!, true);
      ranks[m]![i] = measured;
      prunable[m]![i] = measured.importance ?? Number.NaN;
    });
    return { full, base, ranks, prunable, averaged };
  },
});
