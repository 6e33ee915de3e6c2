/** A rank that may be kept: what it is worth and what it costs in scalars. */
export interface Candidate {
  readonly score: number;
  readonly cost: number;
}

/**
 * Which candidates to keep within `budget` scalars: down the list by score (the earlier candidate first where
 * scores are equal), each that still fits. Where that leaves more than 1 % of the budget unspent, because the
 * costs are unequal and coarse, the set of the highest total score that spends at least 99 % takes its place, if
 * there is one. Equal costs give plain top-k.
 */
export function selectWithinBudget(candidates: readonly Candidate[], budget: number): boolean[] {
  const keep = candidates.map(() => false);
  const order = candidates.map((_, i) => i).sort((a, b) => candidates[b]!.score - candidates[a]!.score);
  let spent = 0;
  for (const i of order)
    if (spent + candidates[i]!.cost <= budget) {
      keep[i] = true;
      spent += candidates[i]!.cost;
    }
  const all = candidates.reduce((sum, { cost }) => sum + cost, 0);
  if (spent >= 0.99 * budget || all < 0.99 * budget) return keep;
  return fullerSelection(candidates, order, budget) ?? keep;
}

/**
 * Knapsack over the distinct costs: of one cost the best come first, so a choice is how many of each cost.
 * best[s]: the highest total score of sum s; chosen[k][s]: how many of cost k the best way to s takes.
 */
function fullerSelection(
  candidates: readonly Candidate[],
  order: readonly number[],
  budget: number,
): boolean[] | undefined {
  const byCost = new Map<number, number[]>();
  for (const i of order) {
    const { cost } = candidates[i]!;
    byCost.set(cost, [...(byCost.get(cost) ?? []), i]);
  }
  const unit = [...byCost.keys()].reduce(greatestCommonDivisor);
  const size = Math.floor(budget / unit);
  let best = new Float64Array(size + 1).fill(Number.NEGATIVE_INFINITY);
  best[0] = 0;
  const groups = [...byCost];
  const chosen = groups.map(() => new Int32Array(size + 1));
  groups.forEach(([cost, members], k) => {
    const next = best.slice();
    let worth = 0;
    members.forEach((member, n) => {
      worth += candidates[member]!.score;
      const shift = ((n + 1) * cost) / unit;
      for (let sum = shift; sum <= size; sum++) {
        const value = best[sum - shift]! + worth;
        if (value > next[sum]!) {
          next[sum] = value;
          chosen[k]![sum] = n + 1;
        }
      }
    });
    best = next;
  });
  let sum = -1;
  for (let s = Math.ceil((0.99 * budget) / unit); s <= size; s++)
    if (best[s]! > Number.NEGATIVE_INFINITY && (sum < 0 || best[s]! >= best[sum]!)) sum = s;
  if (sum < 0) return undefined;
  const keep = candidates.map(() => false);
  for (let k = groups.length - 1; k >= 0; k--) {
    const [cost, members] = groups[k]!;
    const count = chosen[k]![sum]!;
    for (const i of members.slice(0, count)) keep[i] = true;
    sum -= (count * cost) / unit;
  }
  return keep;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
