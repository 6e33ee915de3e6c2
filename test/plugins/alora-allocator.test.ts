import { describe, expect, it } from 'vitest';
import { allocate, lowestRanks, roundSize } from '../../plugins/alora/allocator.ts';
import fc from '../fastCheck.ts';

/** IS of case 1: S(M) = -1, IS = S(M) - S(M without r) + S(M with only r). */
const case1 = [
  [
    [-1.3, -1.9],
    [-1.1, -1.95],
  ],
  [
    [-1.15, -1.98],
    [-0.98, -2.1],
  ],
  [
    [-1.05, -2.0],
    [-1.2, -1.92],
  ],
].map((module) => module.map(([without, only]) => -1 - without! + only!));

function changed(module: number, rank: number, importance: number): number[][] {
  return case1.map((of, m) => of.map((score, i) => (m === module && i === rank ? importance : score)));
}

/** One group over the whole model, equal costs, a budget that is met exactly. */
function run(importance: readonly (readonly number[])[], count: number, caps?: readonly number[]) {
  const result = allocate({
    importance,
    groups: [{ members: importance.map((_, m) => m), count }],
    costs: importance.map(() => 1),
    caps: caps ?? importance.map(() => 100),
    budget: importance.flat().length,
  });
  const ranks = importance.map(
    (of, m) => of.length - result.pruned.filter(([module]) => module === m).length + result.grown[m]!,
  );
  return { ...result, ranks, names: result.pruned.map(([m, i]) => `m${m}r${i}`) };
}

const equal = [
  [-1, -1],
  [-1, -1],
  [-1, -1],
];
const case4 = [case1[0]!, [-2.03, -2.12, -2.02, -1.83], case1[2]!];

describe('the golden rounds of Algorithm 1', () => {
  const rows = [
    ['1', case1, 2, undefined, ['m1r1', 'm2r0'], [0], [2, 0, 0], [4, 1, 1]],
    ['2: a module dies', changed(1, 0, -2.03), 2, undefined, ['m1r1', 'm1r0'], [0, 2], [1, 0, 1], [3, 0, 3]],
    [
      '3: every module lost one',
      changed(0, 1, -2.02),
      3,
      undefined,
      ['m1r1', 'm0r1', 'm2r0'],
      [],
      [0, 0, 0],
      [1, 1, 1],
    ],
    ['4: uneven ranks', case4, 3, undefined, ['m1r1', 'm1r0', 'm1r2'], [0, 2], [2, 0, 1], [4, 1, 3]],
    ['5: all equal', equal, 2, undefined, ['m0r1', 'm1r1'], [2], [0, 0, 2], [1, 1, 4]],
    [
      '6: all equal, no clamp',
      equal,
      4,
      undefined,
      ['m0r1', 'm1r1', 'm2r1', 'm0r0'],
      [],
      [0, 0, 0],
      [0, 1, 1],
    ],
    ['7: NaN', changed(1, 1, Number.NaN), 2, undefined, ['m2r0', 'm0r1'], [1], [0, 2, 0], [1, 4, 1]],
    [
      '9: a dead module',
      [[-1.5, -1.6, -1.9], [], [-1.7, -1.75, -1.95]],
      2,
      undefined,
      ['m2r2', 'm0r2'],
      [],
      [0, 0, 0],
      [2, 0, 2],
    ],
    ['10: a full module', case4, 3, [3, 100, 100], ['m1r1', 'm1r0', 'm1r2'], [0, 2], [1, 0, 2], [3, 1, 4]],
  ] as const;
  it.each(rows)('case %s', (_, importance, count, caps, pruned, receivers, grown, ranks) => {
    const result = run(importance, count, caps);
    expect(result.names).toEqual(pruned);
    expect(result.receivers).toEqual(receivers);
    expect(result.grown).toEqual(grown);
    expect(result.ranks).toEqual(ranks);
  });

  it('case 8: eight ranks for three receivers are 3, 3, 2 (footnote 4 of the paper)', () => {
    const loser = Array.from({ length: 9 }, (_, i) => -10 - i);
    const result = run([loser, [-1], [-2], [-3]], 8);
    expect(result.grown).toEqual([0, 3, 3, 2]);
  });
});

describe('a round', () => {
  it('takes half of the live ranks at the most', () => {
    expect(roundSize(7, 6)).toBe(3);
    expect(roundSize(7, 7)).toBe(3);
    expect(roundSize(7, 1)).toBe(0);
    expect(roundSize(2, 6)).toBe(2);
  });

  it('passes a rank that is too dear on to the next module that it fits', () => {
    // One rank of cost 5 goes; the best receiver costs 9, the next 5.
    const result = allocate({
      importance: [[-3, -1], [-1], [-2]],
      groups: [{ members: [0, 1, 2], count: 1 }],
      costs: [5, 9, 5],
      caps: [9, 9, 9],
      budget: 24,
    });
    expect(result).toMatchObject({ pruned: [[0, 0]], receivers: [1, 2], grown: [0, 0, 1], lost: 0 });
  });

  it('counts what fits nobody as lost', () => {
    const result = allocate({
      importance: [[-3, -4], [-1]],
      groups: [{ members: [0, 1], count: 2 }],
      costs: [5, 7],
      caps: [9, 9],
      budget: 17,
    });
    expect(result).toMatchObject({ grown: [0, 1], lost: 1 });
  });

  it('keeps blocks apart where each is a problem of its own', () => {
    const result = allocate({
      importance: [[-9, -8], [-1], [-2, -7], [-3]],
      groups: [
        { members: [0, 1], count: 1 },
        { members: [2, 3], count: 1 },
      ],
      costs: [1, 1, 1, 1],
      caps: [9, 9, 9, 9],
      budget: 6,
    });
    expect(result).toMatchObject({
      pruned: [
        [0, 0],
        [2, 1],
      ],
      grown: [0, 1, 0, 1],
    });
  });

  it('keeps its invariants for any scores, costs and caps', () => {
    const score = fc.oneof(
      { weight: 9, arbitrary: fc.integer({ min: -5, max: 5 }) },
      { weight: 1, arbitrary: fc.constant(Number.NaN) },
    );
    const module = fc.record({
      scores: fc.array(score, { maxLength: 5 }),
      cost: fc.integer({ min: 1, max: 9 }),
      room: fc.integer({ min: 0, max: 3 }),
    });
    fc.assert(
      fc.property(
        fc.array(module, { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 0, max: 8 }),
        fc.integer({ min: 0, max: 12 }),
        (modules, asked, slack) => {
          const importance = modules.map(({ scores }) => scores);
          const live = importance.flat().length;
          const spent = modules.reduce((sum, { scores, cost }) => sum + scores.length * cost, 0);
          const count = roundSize(asked, live);
          const budget = spent + slack;
          const result = allocate({
            importance,
            groups: [{ members: modules.map((_, m) => m), count }],
            costs: modules.map(({ cost }) => cost),
            caps: modules.map(({ scores, room }) => scores.length + room),
            budget,
          });
          const added = result.grown.reduce((a, b) => a + b, 0);
          const losers = new Set(result.pruned.map(([m]) => m));
          // No rank goes twice, none without a score, none beyond n; nobody both loses and receives.
          expect(new Set(result.pruned.map(String)).size).toBe(result.pruned.length);
          expect(result.pruned.length).toBe(
            Math.min(count, importance.flat().filter(Number.isFinite).length),
          );
          for (const [m, i] of result.pruned) expect(Number.isFinite(importance[m]![i])).toBe(true);
          result.grown.forEach((grown, m) => {
            if (grown === 0) return;
            expect(losers.has(m)).toBe(false);
            expect(importance[m]!.length).toBeGreaterThan(0);
            expect(grown).toBeLessThanOrEqual(modules[m]!.room);
          });
          expect(added + result.lost + result.shrunk).toBe(result.pruned.length);
          const after =
            spent -
            result.pruned.reduce((sum, [m]) => sum + modules[m]!.cost, 0) +
            result.grown.reduce((sum, grown, m) => sum + grown * modules[m]!.cost, 0);
          expect(after).toBeLessThanOrEqual(budget);
          // What goes is never above what stays.
          const kept = importance.flatMap((of, m) =>
            of.filter(
              (value, i) => Number.isFinite(value) && !result.pruned.some(([a, b]) => a === m && b === i),
            ),
          );
          const worst = Math.min(...kept);
          for (const [m, i] of result.pruned) expect(importance[m]![i]!).toBeLessThanOrEqual(worst);
        },
      ),
      { numRuns: 500, seed: 1 },
    );
  });
});

it('picks the lowest of some modules only', () => {
  expect(lowestRanks([[-1], [-5, -2], [-9]], [0, 1], 2)).toEqual([
    [1, 0],
    [1, 1],
  ]);
});
