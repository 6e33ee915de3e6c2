import { describe, expect, expectTypeOf, it } from 'vitest';
import type { MetricsLine } from '../../src/report/events.ts';
import { placesOf } from '../../src/report/modules.ts';
import { quantile } from '../../src/report/scores.ts';
import { budgetOverTime, outline, sampled, smooth } from '../../src/report/series.ts';
import { textWidth } from '../../src/report/textWidth.ts';
import type { MetricsEvent } from '../../src/training/reporter.ts';
import fc from '../fastCheck.ts';

it('every line that the trainer writes is one that the report reads (checked by the compiler)', () => {
  expectTypeOf<MetricsEvent>().toExtend<MetricsLine>();
});

const series = fc
  .array(fc.double({ min: -100, max: 100, noNaN: true }), { minLength: 1, maxLength: 200 })
  .map((values) => values.map((value, i) => ({ step: i + 1, value })));

describe('smooth', () => {
  it('is the weighted mean of a centred window, shorter near the ends', () => {
    const points = [1, 2, 4, 8].map((value, i) => ({ step: i + 1, value }));
    expect(smooth(points, [1, 1, 3, 1], 1).map((p) => p.value)).toEqual([
      1,
      (1 + 2 + 12) / 5,
      (2 + 12 + 8) / 5,
      8,
    ]);
  });

  it('leaves a constant as it is and does not lag behind a line', () => {
    fc.assert(
      fc.property(fc.integer({ min: 3, max: 100 }), fc.integer({ min: 1, max: 20 }), (length, reach) => {
        const line = Array.from({ length }, (_, i) => ({ step: i, value: 3 * i - 7 }));
        const weights = line.map(() => 1);
        // Sums of whole numbers are exact; only the division rounds, and these quotients are whole.
        expect(smooth(line, weights, reach)).toEqual(line);
      }),
    );
  });

  it('leaves out what is not finite', () => {
    const points = [1, Number.NaN, 3].map((value, i) => ({ step: i, value }));
    expect(smooth(points, [1, 1, 1], 1).map((p) => p.value)).toEqual([1, 2, 3]);
  });
});

describe('outline and sampled', () => {
  it('keep the lowest, the highest and the order, and do not exceed the limit', () => {
    fc.assert(
      fc.property(series, fc.integer({ min: 4, max: 50 }), (points, limit) => {
        const kept = outline(points, limit);
        const values = kept.map((p) => p.value);
        expect(kept.length).toBeLessThanOrEqual(limit);
        expect(Math.min(...values)).toBe(Math.min(...points.map((p) => p.value)));
        expect(Math.max(...values)).toBe(Math.max(...points.map((p) => p.value)));
        expect(kept.every((p, i) => i === 0 || p.step > kept[i - 1]!.step)).toBe(true);
      }),
    );
  });

  it('samples keep both ends', () => {
    const items = Array.from({ length: 100 }, (_, i) => i);
    expect(sampled(items, 5)).toEqual([0, 25, 50, 74, 99]);
    expect(sampled([1, 2], 5)).toEqual([1, 2]);
  });
});

it('quantiles are interpolated linearly', () => {
  expect([0, 0.25, 0.5, 1].map((share) => quantile([0, 10, 20, 40], share))).toEqual([0, 7.5, 15, 40]);
});

it('parameters over time follow the ranks, and are unknown where a size is', () => {
  const row = (name: string, cost: number | undefined, before: number) => ({
    name,
    layer: 0,
    kind: name,
    cost,
    before,
    after: 0,
  });
  const event = { event: 'allocation' as const, step: 5, pruned: [], grown: {}, ranks: { a: 1, b: 3 } };
  expect(budgetOverTime([row('a', 10, 2), row('b', 100, 2)], [event], 9)).toEqual([
    { step: 0, ranks: 4, parameters: 220 },
    { step: 5, ranks: 4, parameters: 310 },
    { step: 9, ranks: 4, parameters: 310 },
  ]);
  expect(budgetOverTime([row('a', undefined, 2)], [], 0)[0]!.parameters).toBeUndefined();
});

describe('places of modules', () => {
  it.each([
    ['model.layers.3.self_attn.q_proj', 3, 'self_attn.q_proj'],
    ['transformer.h.11.attn.c_attn', 11, 'attn.c_attn'],
    ['roberta.encoder.layer.0.attention.self.query', 0, 'attention.self.query'],
    ['classifier', null, 'classifier'],
  ])('%s', (name, layer, kind) => {
    expect(placesOf([name]).get(name)).toEqual({ layer, kind });
  });

  it('keeps stacks apart where there are two', () => {
    const places = placesOf(['encoder.block.0.q', 'decoder.block.0.q']);
    expect([...places.values()].map((place) => place.kind)).toEqual(['encoder.block q', 'decoder.block q']);
  });
});

it('text widths are those of Helvetica', () => {
  // 4 * 556 + 278 thousandths of 10 px.
  expect(textWidth('0.458', 10)).toBeCloseTo(25.02, 9);
});
