import { describe, expect, it } from 'vitest';
import { selectWithinBudget } from '../../src/adapters/keep.ts';
import fc from '../fastCheck.ts';

const spent = (costs: readonly number[], keep: readonly boolean[]) =>
  costs.reduce((sum, cost, i) => sum + (keep[i] ? cost : 0), 0);

describe('selectWithinBudget', () => {
  it('is top-k where costs are equal, the earlier first where scores are', () => {
    const candidates = [3, 1, 2, 2].map((score) => ({ score, cost: 10 }));
    expect(selectWithinBudget(candidates, 20)).toEqual([true, false, true, false]);
  });

  it('skips what does not fit and goes on down the list', () => {
    const candidates = [
      { score: 5, cost: 60 },
      { score: 4, cost: 50 },
      { score: 3, cost: 40 },
    ];
    expect(selectWithinBudget(candidates, 100)).toEqual([true, false, true]);
  });

  it('spends 99 % where going down the list would leave a gap', () => {
    // Down the list: 70, then nothing fits into 30. Two of 50 fill it.
    const candidates = [
      { score: 9, cost: 70 },
      { score: 2, cost: 50 },
      { score: 1, cost: 50 },
      { score: 0, cost: 50 },
    ];
    expect(selectWithinBudget(candidates, 100)).toEqual([false, true, true, false]);
  });

  it('never exceeds the budget, and meets 99 % of it whenever some choice does', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({ score: fc.integer({ min: 0, max: 20 }), cost: fc.integer({ min: 1, max: 12 }) }),
          {
            minLength: 1,
            maxLength: 9,
          },
        ),
        fc.integer({ min: 1, max: 80 }),
        (candidates, budget) => {
          const costs = candidates.map(({ cost }) => cost);
          const keep = selectWithinBudget(candidates, budget);
          expect(spent(costs, keep)).toBeLessThanOrEqual(budget);
          const some = Array.from({ length: 2 ** costs.length }, (_, set) =>
            spent(
              costs,
              costs.map((_, i) => (set >> i) % 2 === 1),
            ),
          ).some((sum) => sum <= budget && sum >= 0.99 * budget);
          if (some) expect(spent(costs, keep)).toBeGreaterThanOrEqual(0.99 * budget);
        },
      ),
      { seed: 1 },
    );
  });
});
