import { AloraError } from '../errors.ts';
import type { TargetModule } from './module.ts';
import type { Budget, BudgetMoment } from './strategy.ts';

/** What one rank of a module costs in scalars: a row of A, a row of B, and the gate where it trains. */
export function costOfRank(module: TargetModule, gateTrains: boolean): number {
  return module.in + module.out + (gateTrains ? 1 : 0);
}

/** Resolves the run file's budget: `rank` means what uniform LoRA of that rank costs on these modules. */
export function resolveBudget(
  modules: readonly TargetModule[],
  request: { readonly rank?: number; readonly parameters?: number; readonly at?: BudgetMoment },
): Budget {
  const one = modules.reduce((sum, module) => sum + costOfRank(module, false), 0);
  const at = request.at ?? 'final';
  if (request.parameters !== undefined)
    return { parameters: request.parameters, rank: Math.max(1, Math.floor(request.parameters / one)), at };
  const rank = request.rank ?? 8;
  return { parameters: rank * one, rank, at };
}

/**
 * Ranks that spend between 99 % and 100 % of `parameters`, as evenly as whole ranks allow: everyone gets the
 * same, the rest goes one rank each in graph order, then the last gap is closed by trading ranks.
 * Errors: BUDGET_UNREACHABLE with the numbers, where no such split exists.
 */
export function splitEvenly(
  modules: readonly TargetModule[],
  parameters: number,
  gateTrains: boolean,
): number[] {
  const costs = modules.map((module) => costOfRank(module, gateTrains));
  const caps = modules.map((module) => Math.min(module.in, module.out));
  const one = costs.reduce((a, b) => a + b, 0);
  const even = Math.floor(parameters / one);
  const ranks = caps.map((cap) => Math.min(even, cap));
  const spent = () => ranks.reduce((sum, rank, i) => sum + rank * costs[i]!, 0);
  for (let grew = true; grew; ) {
    grew = false;
    const gap = parameters - spent();
    let left = gap;
    // One further rank each, in graph order, while it fits.
    for (let i = 0; i < ranks.length; i++)
      if (ranks[i]! < caps[i]! && costs[i]! <= left) {
        ranks[i]!++;
        left -= costs[i]!;
        grew = true;
      }
  }
  if (spent() < 0.99 * parameters) closeGap(ranks, costs, caps, parameters);
  const total = spent();
  if (total < 0.99 * parameters) throw unreachable(modules, costs, caps, parameters, total);
  return ranks;
}

/** The best sum of whole ranks up to `target`, found by a bounded knapsack over the distinct costs. */
function closeGap(ranks: number[], costs: readonly number[], caps: readonly number[], target: number): void {
  const unit = costs.reduce(gcd);
  const size = Math.floor(target / unit);
  // Beyond this many cells greedy filling leaves less than one rank in thousands: the gap is below 1 % anyway.
  if (size > 2_000_000) return;
  // last[s]: the item that reached sum s first; count[s]: how many of it in a row.
  const from = new Int32Array(size + 1).fill(-1);
  const used = new Int32Array(size + 1);
  from[0] = -2;
  for (let item = 0; item < costs.length; item++) {
    const cost = costs[item]! / unit;
    used.fill(0);
    for (let sum = cost; sum <= size; sum++) {
      if (from[sum] !== -1 || from[sum - cost] === -1 || used[sum - cost]! >= caps[item]!) continue;
      from[sum] = item;
      used[sum] = used[sum - cost]! + 1;
    }
  }
  let best = size;
  while (from[best] === -1) best--;
  if (best * unit <= ranks.reduce((sum, rank, i) => sum + rank * costs[i]!, 0)) return;
  ranks.fill(0);
  for (let sum = best; sum > 0; ) {
    const item = from[sum]!;
    ranks[item]!++;
    sum -= costs[item]! / unit;
  }
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

function unreachable(
  modules: readonly TargetModule[],
  costs: readonly number[],
  caps: readonly number[],
  parameters: number,
  best: number,
): AloraError {
  const most = costs.reduce((sum, cost, i) => sum + cost * caps[i]!, 0);
  const cheapest = Math.min(...costs);
  return new AloraError('config', 'BUDGET_UNREACHABLE', 'No choice of whole ranks meets the budget', {
    where: 'budget',
    got: `${parameters} parameters; the nearest from below is ${best}`,
    allowed: `at least 99 % of it, in ranks that cost ${cheapest} to ${Math.max(...costs)} each on ${modules.length} modules, ${most} at the most`,
    fix:
      best > 0
        ? `Set budget.parameters to ${best}, or choose other targets.`
        : `Set budget.parameters to at least ${cheapest}.`,
  });
}
