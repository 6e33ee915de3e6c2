import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  bootstrapInterval,
  excludesZero,
  pairedDifference,
  summarise,
} from '../../src/compare/statistics.ts';
import fc from '../fastCheck.ts';

interface Reference {
  readonly values: number[];
  readonly mean: number;
  readonly median: number;
  readonly sd: number | null;
  /** By listing all resamples. */
  readonly exact: [number, number] | null;
  /** By scipy.stats.bootstrap with 200,000 resamples; of fewer than five values the means are too few to interpolate. */
  readonly scipy: [number, number] | null;
}

const path = new URL('../../fixtures/statistics/values.json', import.meta.url);
const references = JSON.parse(readFileSync(path, 'utf8')) as Reference[];
const bySeed = (values: readonly number[]) => new Map(values.map((value, seed) => [seed, value]));
const value = fc.double({ min: -100, max: 100, noNaN: true });

describe('summaries against SciPy', () => {
  it.each(references)('of $values.length values', ({ values, mean, median, sd, exact, scipy }) => {
    const summary = summarise(values)!;
    // Sums of up to 20 doubles in another order: a few units in the last place.
    expect(summary.mean).toBeCloseTo(mean, 12);
    expect(summary.median).toBeCloseTo(median, 12);
    if (sd === null) expect(summary.sd).toBeNull();
    else expect(summary.sd).toBeCloseTo(sd, 12);
    if (values.length < 3) return;
    const [low, high] = bootstrapInterval(values);
    if (exact) {
      expect(low).toBeCloseTo(exact[0], 12);
      expect(high).toBeCloseTo(exact[1], 12);
    }
    if (scipy) {
      // Two random draws: a 2.5 % quantile of 20,000 has a standard error of about 0.02 of the means' own sd.
      const tolerance = exact ? 0.06 : 0.1;
      const scale = summary.sd! / Math.sqrt(values.length);
      expect(Math.abs(low - scipy[0])).toBeLessThan(tolerance * scale);
      expect(Math.abs(high - scipy[1])).toBeLessThan(tolerance * scale);
    }
  });

  it('has nothing to say of nothing', () => {
    expect(summarise([])).toBeUndefined();
    expect(pairedDifference(bySeed([]), bySeed([1]))).toBeUndefined();
  });
});

describe('properties', () => {
  it('the median, the mean and the interval lie between the least and the most', () => {
    fc.assert(
      fc.property(fc.array(value, { minLength: 3, maxLength: 9 }), (values) => {
        const [least, most] = [Math.min(...values) - 1e-9, Math.max(...values) + 1e-9];
        const { mean, median, sd } = summarise(values)!;
        for (const inside of [mean, median, ...bootstrapInterval(values)]) {
          expect(inside).toBeGreaterThanOrEqual(least);
          expect(inside).toBeLessThanOrEqual(most);
        }
        expect(sd).toBeGreaterThanOrEqual(0);
      }),
      { numRuns: 50 },
    );
  });

  it('pairs by seed: whatever a seed adds to both cancels, and a swap turns the sign', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(value, value, value), { minLength: 3, maxLength: 6 }), (rows) => {
        const a = bySeed(rows.map(([x, , shift]) => x + shift));
        const b = bySeed(rows.map(([, y, shift]) => y + shift));
        const there = pairedDifference(a, b)!;
        const back = pairedDifference(b, a)!;
        const plain = pairedDifference(bySeed(rows.map(([x]) => x)), bySeed(rows.map(([, y]) => y)))!;
        expect(there.mean).toBeCloseTo(plain.mean, 9);
        expect(back.mean).toBeCloseTo(-there.mean, 9);
        expect(back.interval![0]).toBeCloseTo(-there.interval![1], 9);
        expect(back.interval![1]).toBeCloseTo(-there.interval![0], 9);
      }),
      { numRuns: 50 },
    );
  });

  it('only seeds that both have count', () => {
    const a = new Map([
      [0, 1],
      [1, 2],
      [2, 3],
      [7, 100],
    ]);
    const b = new Map([
      [2, 2.5],
      [1, 1],
      [0, 0],
    ]);
    expect(pairedDifference(a, b)).toMatchObject({ n: 3, mean: 2.5 / 3 });
  });

  it('excludes zero where all seeds agree and not where they do not, and never with two seeds', () => {
    const against = (values: number[]) =>
      excludesZero(pairedDifference(bySeed(values), bySeed(values.map(() => 0)))!);
    expect(against([0.2, 0.3, 0.1, 0.4, 0.2])).toBe(true);
    expect(against([-0.2, -0.3, -0.1])).toBe(true);
    expect(against([0.2, -0.3, 0.1, 0.4, -0.2])).toBe(false);
    expect(against([0.2, 0.3])).toBe(false);
    expect(against([0, 0, 0])).toBe(false);
  });

  it('draws the same for more than six values every time', () => {
    const values = Array.from({ length: 12 }, (_, i) => Math.sin(i));
    expect(bootstrapInterval(values)).toEqual(bootstrapInterval(values));
  });
});
