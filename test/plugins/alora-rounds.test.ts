import { describe, expect, it } from 'vitest';
import { roundGroups, roundSchedule, stepsOf } from '../../plugins/alora/rounds.ts';
import fc from '../fastCheck.ts';
import { modulesOf } from './fakeHost.ts';

describe('rounds in a run', () => {
  it('are after step 156, 195, .. 429 with the defaults of the paper and 156 steps an epoch', () => {
    expect(roundSchedule(1560, 156, {})).toEqual({ first: 156, every: 39, rounds: 8 });
  });

  it('come closer together where a run is short, so that the last one ends by three quarters of it', () => {
    expect(roundSchedule(60, 20, {})).toEqual({ first: 15, every: 3, rounds: 8 });
    expect(roundSchedule(6, 2, {})).toEqual({ first: 1, every: 1, rounds: 3 });
    expect(roundSchedule(1, 1, {})).toEqual({ first: 1, every: 1, rounds: 1 });
  });

  it('keep what the user gave, and shrink the rest around it', () => {
    expect(roundSchedule(100, 50, { roundEvery: 20 })).toEqual({ first: 17, every: 20, rounds: 2 });
    expect(roundSchedule(100, 50, { firstRoundAfter: 60 })).toEqual({ first: 60, every: 1, rounds: 8 });
    expect(roundSchedule(100, 50, { rounds: 2 })).toEqual({ first: 49, every: 13, rounds: 2 });
    expect(roundSchedule(24, 8, { firstRoundAfter: 8, roundEvery: 4, rounds: 3 })).toEqual({
      first: 8,
      every: 4,
      rounds: 3,
    });
  });

  it('are refused with the numbers where given values do not fit', () => {
    expect(() => roundSchedule(60, 20, { firstRoundAfter: '2 epochs', roundEvery: 10, rounds: 4 })).toThrow(
      expect.objectContaining({
        code: 'SCHEDULE_DOES_NOT_FIT',
        details: expect.objectContaining({
          got: '4 rounds from step 40 on, every 10 steps: the last one after step 70 of 60',
        }),
      }),
    );
    expect(() => roundSchedule(10, 20, { firstRoundAfter: '1 epoch' })).toThrow(
      expect.objectContaining({ code: 'SCHEDULE_DOES_NOT_FIT' }),
    );
  });

  it('never end later than the run without a refusal', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 3000 }),
        fc.integer({ min: 1, max: 1000 }),
        (totalSteps, stepsPerEpoch) => {
          const { first, every, rounds } = roundSchedule(totalSteps, stepsPerEpoch, {});
          expect(Math.min(first, every, rounds)).toBeGreaterThanOrEqual(1);
          // Below four steps there is no room for three quarters.
          if (totalSteps > 3) expect(first + rounds * every).toBeLessThanOrEqual(0.75 * totalSteps);
        },
      ),
      { seed: 1 },
    );
  });

  it('takes durations in steps or in epochs, rounded up', () => {
    expect(stepsOf(7, 100)).toBe(7);
    expect(stepsOf('1 epoch', 100)).toBe(100);
    expect(stepsOf('0.25 epochs', 90)).toBe(23);
    expect(stepsOf('0.25 epochs', 1)).toBe(1);
  });
});

describe('ranks per round', () => {
  const modules = modulesOf(
    Array.from({ length: 6 }, () => [4, 4] as const),
    3,
  );

  it('is as many as a block has modules over the whole model, or in each block, or a number', () => {
    expect(roundGroups(modules, 'perModel')).toEqual([{ members: [0, 1, 2, 3, 4, 5], count: 3 }]);
    expect(roundGroups(modules, 'perBlock')).toEqual([
      { members: [0, 1, 2], count: 3 },
      { members: [3, 4, 5], count: 3 },
    ]);
    expect(roundGroups(modules, 5)).toEqual([{ members: [0, 1, 2, 3, 4, 5], count: 5 }]);
  });
});
