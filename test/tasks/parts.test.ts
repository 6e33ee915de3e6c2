import { describe, expect, it } from 'vitest';
import { costOfPart, lengthParts, runCostOf } from '../../src/tasks/parts.ts';
import fc from '../fastCheck.ts';

const options = fc.record({ most: fc.integer({ min: 1, max: 9 }), tokensOfRun: fc.constantFrom(0, 64, 1e9) });

function cost(lengths: readonly number[], parts: readonly (readonly number[])[], tokensOfRun: number) {
  return parts.reduce(
    (sum, part) => sum + costOfPart(part.length, Math.max(...part.map((i) => lengths[i]!)), tokensOfRun),
    0,
  );
}

/** Every way to cut items into consecutive pieces of at most `most`. */
function* cuts(items: readonly number[], most: number): Generator<number[][]> {
  if (items.length === 0) yield [];
  for (let size = 1; size <= Math.min(most, items.length); size++)
    for (const rest of cuts(items.slice(size), most)) yield [items.slice(0, size), ...rest];
}

describe('lengthParts', () => {
  it('gives each row once, in parts of at most so many, the longest first', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 600 }), { maxLength: 60 }),
        options,
        (lengths, given) => {
          const parts = lengthParts(lengths, given);
          expect(parts.flat().sort((a, b) => a - b)).toEqual(lengths.map((_, i) => i));
          const longest = parts.map((part) => Math.max(...part.map((i) => lengths[i]!)));
          expect(longest).toEqual(longest.toSorted((a, b) => b - a));
          for (const part of parts) {
            expect(part.length).toBeLessThanOrEqual(given.most);
            expect(part).toEqual(part.toSorted((a, b) => a - b));
          }
        },
      ),
    );
  });

  it('costs as little as the best of all cuts of the sorted rows', () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(lengths, options, (lengths, { most, tokensOfRun }) => {
        const sorted = lengths.map((_, i) => i).sort((a, b) => lengths[a]! - lengths[b]!);
        const best = Math.min(...[...cuts(sorted, most)].map((parts) => cost(lengths, parts, tokensOfRun)));
        const found = cost(lengths, lengthParts(lengths, { most, tokensOfRun }), tokensOfRun);
        expect(found / best).toBeCloseTo(1, 9);
      }),
    );
  });

  it('leaves rows of one length in full batches', () => {
    expect(
      lengthParts(new Array(8).fill(32), { most: 4, tokensOfRun: 64 }).map((part) => part.length),
    ).toEqual([4, 4]);
    expect(lengthParts(new Array(4).fill(512), { most: 4, tokensOfRun: 64 })).toEqual([[0, 1, 2, 3]]);
  });

  it('makes no more runs than batches need where a run is dear', () => {
    const lengths = [10, 500, 20, 400, 30, 300, 40];
    expect(lengthParts(lengths, { most: 4, tokensOfRun: 1e9 })).toEqual([
      [1, 3, 5],
      [0, 2, 4, 6],
    ]);
    expect(lengthParts(lengths, { most: 7, tokensOfRun: 64 }).length).toBeGreaterThan(1);
  });

  it('keeps batches whole whose rows are not independent', () => {
    expect(runCostOf([{ kind: 'span' }], 64)).toBe(1e9);
    expect(runCostOf([{ kind: 'tag' }], 64)).toBe(64);
    expect(runCostOf([], 64)).toBe(64);
  });
});
