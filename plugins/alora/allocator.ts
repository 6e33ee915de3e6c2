/** A rank by module index and row. */
export type RankPosition = readonly [module: number, rank: number];

export interface AllocationRequest {
  /** Importance by module and rank. What is not finite is neither pruned nor averaged. */
  readonly importance: readonly (readonly number[])[];
  /** What may be pruned, where that is less than everything with a finite importance (screening). */
  readonly prunable?: readonly (readonly number[])[];
  /** n_A, already clamped (see `roundSize`): so many ranks of these modules go. One group for the whole model. */
  readonly groups: readonly { readonly members: readonly number[]; readonly count: number }[];
  /** Scalars of one rank, by module. */
  readonly costs: readonly number[];
  /** The most ranks that a module can hold. */
  readonly caps: readonly number[];
  /** N: live scalars never exceed it. */
  readonly budget: number;
}

export interface Allocation {
  readonly pruned: readonly RankPosition[];
  /** Modules that lost none, best mean importance first. */
  readonly receivers: readonly number[];
  /** New ranks by module. */
  readonly grown: readonly number[];
  /** Ranks that found no receiver: all were full or too dear. */
  readonly lost: number;
  /** Ranks that went for good because every module of their group lost one. */
  readonly shrunk: number;
}

/** n_A, but never more than half of the live ranks: a round may not wipe out the model. */
export function roundSize(count: number, live: number): number {
  return Math.min(count, Math.floor(live / 2));
}

/**
 * Lines 5 to 7 of Algorithm 1 (ALoRA): prunes the lowest ranks of each group and grants as many to the group's
 * modules that lost none, rank by rank down the list by mean importance. What a module cannot take, because it is
 * full or the budget does not hold another rank of its cost, passes to the next one that can.
 */
export function allocate(request: AllocationRequest): Allocation {
  const { importance, costs, caps, budget, groups } = request;
  const lowest = groups.map(({ members, count }) =>
    lowestRanks(request.prunable ?? importance, members, count),
  );
  const pruned = lowest.flat();
  const ranks = importance.map((of) => of.length);
  for (const [module] of pruned) ranks[module]!--;
  let live = ranks.reduce((sum, rank, m) => sum + rank * costs[m]!, 0);
  const grown = importance.map(() => 0);
  const receivers: number[] = [];
  let lost = 0;
  let shrunk = 0;
  groups.forEach(({ members }, g) => {
    const of = receiversOf(importance, members, lowest[g]!);
    receivers.push(...of);
    if (of.length === 0) {
      shrunk += lowest[g]!.length;
      return;
    }
    let next = 0;
    for (let granted = 0; granted < lowest[g]!.length; granted++) {
      const turn = of.findIndex((_, i) => {
        const module = of[(next + i) % of.length]!;
        return ranks[module]! < caps[module]! && live + costs[module]! <= budget;
      });
      if (turn < 0) {
        lost += lowest[g]!.length - granted;
        break;
      }
      const module = of[(next + turn) % of.length]!;
      ranks[module]!++;
      grown[module]!++;
      live += costs[module]!;
      next = (next + turn + 1) % of.length;
    }
  });
  return { pruned, receivers, grown, lost, shrunk };
}

/** The lowest `count` ranks of the members. Equal scores: the higher row goes first, then the lower module. */
export function lowestRanks(
  importance: readonly (readonly number[])[],
  members: readonly number[],
  count: number,
): RankPosition[] {
  return (
    members
      .flatMap((module) => importance[module]!.map((score, rank) => ({ module, rank, score })))
      // Before sorting: NaN would make the comparison inconsistent.
      .filter(({ score }) => Number.isFinite(score))
      .sort((a, b) => a.score - b.score || b.rank - a.rank || a.module - b.module)
      .slice(0, count)
      .map(({ module, rank }) => [module, rank] as const)
  );
}

/** Members that lost no rank and have a measured one, by mean importance (equal: the lower module first). */
function receiversOf(
  importance: readonly (readonly number[])[],
  members: readonly number[],
  pruned: readonly RankPosition[],
): number[] {
  const losers = new Set(pruned.map(([module]) => module));
  const means = new Map(members.map((module) => [module, meanOfFinite(importance[module]!)] as const));
  return members
    .filter((module) => !losers.has(module) && !Number.isNaN(means.get(module)!))
    .sort((a, b) => means.get(b)! - means.get(a)! || a - b);
}

function meanOfFinite(values: readonly number[]): number {
  const finite = values.filter(Number.isFinite);
  return finite.reduce((sum, value) => sum + value, 0) / finite.length;
}
