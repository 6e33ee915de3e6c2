import { noSensitivity, rowSensitivity, updateSensitivity } from 'onnx-alora/strategy';
import { describe, expect, it } from 'vitest';
import { adalora } from '../../plugins/adalora/index.ts';
import { budgetAt, cubicShare, maskSchedule } from '../../plugins/adalora/schedule.ts';
import { keptRanks, tripletScore } from '../../plugins/adalora/scheduler.ts';
import { descend, fakeHost, modulesOf, randomGradients, rankBudget } from './fakeHost.ts';

const options = (given: object) => adalora.options.parse(given);

describe("AdaLoRA's schedule", () => {
  const schedule = maskSchedule(100, { tInit: 10, tFinal: 20, deltaT: 10 });

  it('falls cubically from 48 to 24 ranks, as PEFT 0.21 computes it', () => {
    const steps = [0, 10, 11, 19, 20, 30, 40, 50, 60, 70, 80, 81, 100];
    const at = steps.map((t) => budgetAt(t, schedule, 48, 24));
    expect(at.map(({ budget }) => budget)).toEqual([48, 48, 46, 39, 39, 32, 28, 25, 24, 24, 24, 24, 24]);
    expect(at.map(({ phase }) => phase)).toEqual([
      ...['warmup', 'warmup', 'wait', 'wait'],
      ...['mask', 'mask', 'mask', 'mask', 'mask', 'mask'],
      ...['last mask', 'final', 'final'],
    ]);
  });

  it('matches the unrounded values', () => {
    const exact = [20, 30, 40, 50, 60, 70].map((t) => 24 + 24 * cubicShare(t, schedule));
    const expected = [39.114, 32.746, 28.478, 25.889, 24.56, 24.07];
    // The page prints three decimals.
    exact.forEach((value, i) => {
      expect(Math.abs(value - expected[i]!)).toBeLessThan(5e-4);
    });
  });

  it('defaults to a tenth before and a half after, and to ten steps between masks', () => {
    expect(maskSchedule(1000, {})).toEqual({ totalSteps: 1000, tInit: 100, tFinal: 500, deltaT: 10 });
    expect(maskSchedule(60, {})).toEqual({ totalSteps: 60, tInit: 6, tFinal: 30, deltaT: 4 });
  });

  it('always leaves room between default phases', () => {
    for (let totalSteps = 1; totalSteps < 200; totalSteps++) {
      const { tInit, tFinal } = maskSchedule(totalSteps, {});
      expect(tInit).toBeLessThan(totalSteps - tFinal);
      if (totalSteps > 2) expect(totalSteps - tFinal).toBeLessThanOrEqual(0.75 * totalSteps);
      expect(() => maskSchedule(totalSteps, { tInit: totalSteps - 1 })).not.toThrow();
      expect(() => maskSchedule(totalSteps, { tFinal: totalSteps - 1 })).not.toThrow();
    }
  });

  it('refuses phases that leave no step to mask in', () => {
    expect(() => maskSchedule(100, { tInit: 50, tFinal: 50 })).toThrow(
      expect.objectContaining({ code: 'SCHEDULE_DOES_NOT_FIT' }),
    );
    expect(() => maskSchedule(100, { tFinal: 100 })).toThrow(/do not fit/);
  });
});

describe("AdaLoRA's scores", () => {
  it('average sensitivity and its deviation', () => {
    const of = noSensitivity(1);
    const seen = [4, 2, 6].map((gradient) => {
      updateSensitivity(of, [1], [gradient], 0.85, 0.85);
      return [of.mean[0]!, of.deviation[0]!, rowSensitivity(of, 0, 1)];
    });
    const expected = [
      [0.6, 0.51, 0.306],
      [0.81, 0.612, 0.49572],
      [1.5885, 1.181925, 1.877488],
    ];
    // float32 averages, and the last product is printed to seven digits.
    seen.flat().forEach((value, i) => {
      expect(Math.abs(value / expected.flat()[i]! - 1)).toBeLessThan(5e-7);
    });
  });

  it('add up over the triplet', () => {
    const product = (values: number[]) => ({
      mean: Float32Array.from(values),
      deviation: new Float32Array(values.length).fill(1),
    });
    const of = {
      gate: product([0.1, 0.02]),
      lora_A: product([0.04, 0.02, 0.01, 0.03]),
      lora_B: product([0.05, 0.01, 0.0, 0.02]),
    };
    // float32
    expect(Math.abs(tripletScore(of, 0, 2, 2) - 0.16)).toBeLessThan(1e-8);
    expect(Math.abs(tripletScore(of, 1, 2, 2) - 0.05)).toBeLessThan(1e-8);
  });

  it('mask exactly what the budget asks for; of equal scores the higher rank, then the lower module', () => {
    const one = [[0.16, 0.05, 0.05, 0.2]];
    expect(keptRanks(one, [1], 2)).toEqual([[true, false, false, true]]);
    expect(keptRanks(one, [1], 3)).toEqual([[true, true, false, true]]);
    expect(keptRanks(one, [1], 4)).toEqual([[true, true, true, true]]);
    expect(
      keptRanks(
        [
          [1, 1],
          [1, 1],
        ],
        [1, 1],
        3,
      ),
    ).toEqual([
      [true, false],
      [true, true],
    ]);
  });
});

describe('an AdaLoRA run', () => {
  const square = modulesOf([
    [6, 6],
    [6, 6],
  ]);

  it("keeps as many ranks after each step as PEFT's allocator (2 matrices, 4 to 2 ranks, tinit 2, tfinal 5, T 20)", () => {
    const given = options({ initRank: 4, targetRank: 2, tInit: 2, tFinal: 5, deltaT: 1 });
    const { host, adapters, outline } = fakeHost(adalora, square, rankBudget(square, 2), given, {
      totalSteps: 20,
    });
    const scheduler = adalora.scheduler!(outline, given);
    const live: number[] = [];
    const nonZero: number[] = [];
    for (let step = 1; step <= 20; step++) {
      randomGradients(adapters, step);
      descend(adapters, 0.01);
      host.step = step;
      void scheduler.afterStep(host);
      live.push(square.reduce((sum, module) => sum + adapters.liveRank(module), 0));
      nonZero.push(
        square.flatMap((module) => [...adapters.parameter(module, 'gate')]).filter((g) => g !== 0).length,
      );
    }
    expect(live).toEqual([8, 8, 8, 7, 6, 5, 5, ...new Array(13).fill(4)]);
    // Masked lambda are zero whenever evaluation could see them, the last phase included.
    expect(nonZero).toEqual(live);
    expect(scheduler.settled!()).toBe(true);
  });

  const uneven = modulesOf(
    [
      [8, 8],
      [8, 4],
      [8, 24],
      [24, 8],
    ],
    2,
  );

  async function run(
    given: object,
    fake: { totalSteps: number; until?: number },
    budget = rankBudget(uneven, 2),
  ) {
    const chosen = options(given);
    const { host, adapters, outline, events } = fakeHost(adalora, uneven, budget, chosen, fake);
    const scheduler = adalora.scheduler!(outline, chosen);
    const spent: number[] = [];
    for (let step = 1; step <= (fake.until ?? fake.totalSteps); step++) {
      spent.push(adapters.liveParameters());
      randomGradients(adapters, step);
      descend(adapters, 0.01);
      host.step = step;
      await scheduler.afterStep(host);
    }
    return { host, adapters, scheduler, events, budget, spent, outline, chosen };
  }

  it('follows the budget where no target rank is given, ranks counted by their cost', async () => {
    const { adapters, budget, events, spent } = await run({}, { totalSteps: 40 });
    expect(spent[0]).toBeGreaterThan(1.9 * budget.parameters);
    expect(adapters.liveParameters()).toBeLessThanOrEqual(budget.parameters);
    expect(adapters.liveParameters()).toBeGreaterThanOrEqual(0.99 * budget.parameters);
    // Events follow the pattern: initial minus pruned plus returned is what lives.
    const moved = events.reduce(
      (sum, { pruned, grown }) => sum - pruned.length + Object.values(grown).reduce((a, b) => a + b, 0),
      4 * 4,
    );
    expect(moved).toBe(uneven.reduce((sum, module) => sum + adapters.liveRank(module), 0));
    expect(events.map(({ round }) => round)).toEqual(events.map((_, i) => i + 1));
  });

  it('meets an average or a peak budget as well', async () => {
    const wide = modulesOf(new Array<[number, number]>(12).fill([30, 30]));
    for (const at of ['average', 'peak'] as const) {
      const budget = rankBudget(wide, 10, at);
      const chosen = options({});
      const { host, adapters, outline, plan } = fakeHost(adalora, wide, budget, chosen, { totalSteps: 200 });
      const scheduler = adalora.scheduler!(outline, chosen);
      let sum = 0;
      for (let step = 1; step <= 200; step++) {
        sum += adapters.liveParameters();
        host.step = step;
        await scheduler.afterStep(host);
      }
      const measured = at === 'average' ? sum / 200 : plan.peak;
      expect(measured).toBeLessThanOrEqual(budget.parameters);
      expect(measured).toBeGreaterThanOrEqual(0.98 * budget.parameters);
      // The plan says what happens, up to whole ranks.
      expect(Math.abs(plan[at] / measured - 1)).toBeLessThan(0.02);
    }
  });

  it('draws the last mask after the last step where tFinal is 0 or the run is cut short', async () => {
    const { host, adapters, scheduler, budget } = await run({ tFinal: 0 }, { totalSteps: 12, until: 7 });
    expect(scheduler.settled!()).toBe(false);
    expect(adapters.liveParameters()).toBeGreaterThan(budget.parameters);
    await scheduler.finish!(host);
    expect(adapters.liveParameters()).toBeLessThanOrEqual(budget.parameters);
    expect(scheduler.settled!()).toBe(true);
  });

  it('continues from its saved state as if it had not stopped', async () => {
    const through = await run({ deltaT: 2 }, { totalSteps: 30 });
    const first = await run({ deltaT: 2 }, { totalSteps: 30, until: 11 });
    const state = JSON.parse(JSON.stringify(first.scheduler.save()));
    const scheduler = adalora.scheduler!(first.outline, first.chosen);
    scheduler.restore(state);
    for (let step = 12; step <= 30; step++) {
      randomGradients(first.adapters, step);
      descend(first.adapters, 0.01);
      first.host.step = step;
      await scheduler.afterStep(first.host);
    }
    expect(first.adapters.values).toEqual(through.adapters.values);
    expect(uneven.map((module) => first.adapters.live(module))).toEqual(
      uneven.map((module) => through.adapters.live(module)),
    );
  });

  it('refuses ranks that cannot meet the budget or the target', () => {
    const length = { totalSteps: 10, stepsPerEpoch: 5 };
    const plan = (given: object) => () => adalora.plan(uneven, rankBudget(uneven, 2), options(given), length);
    expect(plan({ initRank: 1 })).toThrow(expect.objectContaining({ code: 'BUDGET_UNREACHABLE' }));
    expect(plan({ initRank: 2, targetRank: 3 })).toThrow(
      expect.objectContaining({ code: 'RANK_BELOW_TARGET' }),
    );
    expect(plan({ targetRank: 2 })().initial).toEqual([4, 4, 4, 4]);
  });

  it('refuses options that it does not know', () => {
    expect(adalora.options.safeParse({ initrank: 3 }).success).toBe(false);
  });
});
