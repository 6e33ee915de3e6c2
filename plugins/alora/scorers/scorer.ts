import type { HostTrainer, Json, RankScore } from 'onnx-alora/strategy';
import type { RankPosition } from '../allocator.ts';

/** What a scorer says about the ranks of all modules. S is minus the loss on the dev batch. */
export interface Scores {
  /** S(M), the network as it is. */
  readonly full: number;
  /** S of the network without any rank. */
  readonly base: number;
  /** By module index, one entry a rank. */
  readonly ranks: readonly (readonly RankScore[])[];
  /** Importance by which ranks are pruned; NaN: not this round. Default: that of `ranks`. */
  readonly prunable?: readonly (readonly number[])[];
  /** Importance that orders the receivers. Default: that of `ranks`. */
  readonly averaged?: readonly (readonly number[])[];
}

/** Measures ranks. What it learns while the run goes on is its state. */
export interface Scorer {
  /** Gradients clipped, weights not yet updated; at every step until the last round. */
  beforeStep?(host: HostTrainer): void;
  /** After the step, before a round; at every step until the last round. */
  afterStep?(host: HostTrainer): Promise<void>;
  /** `candidates`: the ranks that a round might take, given their estimated importance. */
  score(
    host: HostTrainer,
    candidates: (importance: readonly (readonly number[])[]) => readonly RankPosition[],
  ): Promise<Scores>;
  /** After the last round, or at the end of a run that did not come to it. */
  finish?(host: HostTrainer): void;
  /** Share of the training rows that it learns from, see AdapterScheduler. */
  readonly heldBackShare?: number;
  save?(): Json;
  restore?(state: Json): void;
}

/** null where a number is not finite, because JSON holds no NaN. */
export function finiteOrNull(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}

/** Importance of one rank by Eq. 6, IS = S(M) - S(M without r) + S(M with only r). */
export function rankScore(
  index: number,
  full: number,
  without: number,
  only: number,
  exact: boolean,
): RankScore {
  return {
    index,
    without: finiteOrNull(without),
    only: finiteOrNull(only),
    importance: finiteOrNull(full - without + only),
    exact,
  };
}

/** Importance by module and rank, NaN where there is none. */
export function importanceOf(ranks: readonly (readonly RankScore[])[]): number[][] {
  return ranks.map((of) => of.map(({ importance }) => importance ?? Number.NaN));
}

/** S(M) and S without any rank. */
export async function ends(host: HostTrainer): Promise<{ full: number; base: number }> {
  const [all, none] = await host.losses([
    { on: 'all', except: [] },
    { on: 'none', except: [] },
  ]);
  return { full: -all!, base: -none! };
}
