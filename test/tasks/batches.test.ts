import { describe, expect, it } from 'vitest';
import { epochBatches, stepsPerEpoch } from '../../src/tasks/batches.ts';
import fc from '../fastCheck.ts';

const lengths = fc.array(fc.integer({ min: 1, max: 64 }), { maxLength: 400 });
const options = fc.record({
  batchSize: fc.integer({ min: 1, max: 9 }),
  accumulate: fc.integer({ min: 1, max: 4 }),
  shuffle: fc.boolean(),
  seed: fc.integer({ min: 0, max: 1000 }),
  epoch: fc.integer({ min: 0, max: 20 }),
});

describe('epochBatches', () => {
  it('gives each example once, in full steps but the last', () => {
    fc.assert(
      fc.property(lengths, options, (lengths, options) => {
        const steps = epochBatches(lengths, options);
        expect(steps.length).toBe(stepsPerEpoch(lengths.length, options));
        expect(
          steps
            .flat(2)
            .slice()
            .sort((a, b) => a - b),
        ).toEqual(lengths.map((_, i) => i));
        for (const [k, step] of steps.entries()) {
          expect(step.length).toBeLessThanOrEqual(options.accumulate);
          if (k < steps.length - 1) expect(step.flat().length).toBe(options.batchSize * options.accumulate);
          for (const batch of step) {
            expect(batch.length).toBeGreaterThan(0);
            expect(batch.length).toBeLessThanOrEqual(options.batchSize);
          }
        }
      }),
      { numRuns: 200 },
    );
  });

  it('is the file order without shuffling', () => {
    fc.assert(
      fc.property(lengths, options, (lengths, options) => {
        const steps = epochBatches(lengths, { ...options, shuffle: false });
        expect(steps.flat(2)).toEqual(lengths.map((_, i) => i));
      }),
    );
  });

  it('depends on seed and epoch alone', () => {
    const lengths = Array.from({ length: 100 }, (_, i) => (i * 37) % 50);
    const base = { batchSize: 4, accumulate: 2, shuffle: true, seed: 1, epoch: 0 };
    expect(epochBatches(lengths, base)).toEqual(epochBatches([...lengths], { ...base }));
    expect(epochBatches(lengths, base)).not.toEqual(epochBatches(lengths, { ...base, epoch: 1 }));
    expect(epochBatches(lengths, base)).not.toEqual(epochBatches(lengths, { ...base, seed: 2 }));
  });

  it('pads far less than unsorted batches', () => {
    const lengths = Array.from({ length: 2048 }, (_, i) => 1 + ((i * 7919) % 128));
    const padded = (shuffle: boolean) =>
      epochBatches(lengths, { batchSize: 8, accumulate: 1, shuffle, seed: 0, epoch: 0 })
        .flat()
        .reduce((sum, batch) => sum + batch.length * Math.max(...batch.map((i) => lengths[i]!)), 0);
    const tokens = lengths.reduce((a, b) => a + b, 0);
    // Buckets of 256 examples over 128 lengths leave about 4 lengths within a batch of 8.
    expect(padded(true) / tokens).toBeLessThan(1.08);
    expect(padded(false) / tokens).toBeGreaterThan(1.3);
  });
});
