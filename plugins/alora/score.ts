import type { HostTrainer, ScoreTable, TargetModule } from 'onnx-alora/strategy';
import { lowestRanks, type RankPosition, roundSize } from './allocator.ts';
import { type RanksPerRound, roundGroups } from './rounds.ts';
import { type ScorerName, scorers } from './scorers/index.ts';
import { finiteOrNull, type Scores } from './scorers/scorer.ts';

/** Exact scores are taken of this many times the ranks that a round prunes. */
const screeningFactor = 2;

/** The ranks that come into question, `screeningFactor` times as many as the groups lose. */
export function screenedCandidates(
  importance: readonly (readonly number[])[],
  groups: readonly { readonly members: readonly number[]; readonly count: number }[],
): RankPosition[] {
  return groups.flatMap(({ members, count }) => {
    const live = members.reduce((sum, m) => sum + importance[m]!.length, 0);
    return lowestRanks(importance, members, screeningFactor * roundSize(count, live));
  });
}

/** The content of a scores file. */
export function scoreTable(
  modules: readonly TargetModule[],
  scorer: string,
  examples: number,
  { full, base, ranks }: Scores,
): ScoreTable {
  return {
    scorer,
    examples,
    full: finiteOrNull(full) ?? Number.NaN,
    base: finiteOrNull(base) ?? Number.NaN,
    modules: Object.fromEntries(modules.map((module, m) => [module.name, ranks[m]!])),
  };
}

/** What is to be scored, and how. */
export interface ScoreRequest {
  readonly scorer?: Exclude<ScorerName, 'dnas'>;
  readonly examples?: number;
  /** Decides how many candidates `screened` measures. */
  readonly ranksPerRound?: RanksPerRound;
}

/** Scores every rank of the adapter that a host holds, whoever made it; nothing is changed. */
export async function scoreRanks(host: HostTrainer, request: ScoreRequest = {}): Promise<ScoreTable> {
  const { scorer = 'exact', examples = 32, ranksPerRound = 'perModel' } = request;
  const { modules } = host.adapters;
  const rows = host.devBatch(examples);
  const groups = roundGroups(modules, ranksPerRound);
  const scores = await scorers[scorer]().score(host, (importance) => screenedCandidates(importance, groups));
  return scoreTable(modules, scorer, rows, scores);
}
