import type { GateSetting } from 'onnx-alora/strategy';
import { describe, expect, it } from 'vitest';
import { alora } from '../../plugins/alora/index.ts';
import { type FakeOptions, fakeHost, modulesOf, randomGradients, rankBudget } from './fakeHost.ts';

const options = (given: object) => alora.options.parse(given);
const modules = modulesOf(
  [
    [8, 8],
    [8, 4],
    [8, 24],
    [24, 8],
  ],
  2,
);

/** Each rank lowers the loss by a worth of its own: a new serial is worth less, some are harmful. */
const worth = (module: number, serial: number) => Math.sin(3 * module + 5 * serial + 1) / (1 + module);

const additiveLoss: FakeOptions['loss'] = ({ on, except }, adapters) =>
  adapters.modules.reduce((loss, module, m) => {
    const flipped = new Set(except.filter(([of]) => of === m).map(([, rank]) => rank));
    return adapters
      .serials(module)
      .reduce((sum, serial, i) => sum - ((on === 'all') !== flipped.has(i) ? worth(m, serial) : 0), loss);
  }, 10);

function open(given: object, fake: FakeOptions = {}, budget = rankBudget(modules, 2)) {
  const chosen = options(given);
  const opened = fakeHost(alora, modules, budget, chosen, { loss: additiveLoss, ...fake });
  return { ...opened, budget, chosen, scheduler: alora.scheduler!(opened.outline, chosen) };
}

async function run({ host, adapters, scheduler }: ReturnType<typeof open>, from: number, until: number) {
  for (let step = from; step <= until; step++) {
    randomGradients(adapters, step);
    await scheduler.beforeStep?.(host);
    host.step = step;
    await scheduler.afterStep(host);
  }
}

describe('an ALoRA run', () => {
  it('prunes the lowest ranks and grows the best modules, after the steps of the schedule', async () => {
    const opened = open({ firstRoundAfter: 10, roundEvery: 5, rounds: 3, ranksPerRound: 2 });
    const { adapters, events, settingsAsked, budget } = opened;
    await run(opened, 1, 9);
    expect(events).toHaveLength(0);
    await run(opened, 10, 10);
    // Eight ranks: all, none, without each, only each; then the losses after pruning and growing.
    expect(settingsAsked.map((asked) => asked.length)).toEqual([2 + 16, 1, 1]);
    const [first] = events;
    const scored = first!.scores!;
    const flat = Object.values(scored.modules).flat();
    expect(flat).toHaveLength(8);
    for (const { importance, without, only } of flat)
      expect(Math.abs(importance! - (scored.full - without! + only!))).toBeLessThan(1e-12);
    const lowest = flat
      .map(({ importance }) => importance!)
      .sort((a, b) => a - b)
      .slice(0, 2);
    expect(first!.pruned.map(({ score }) => score)).toEqual(lowest);
    expect(first!.loss!.before).toBe(-scored.full);
    // What is left sums up: the loss after pruning is the loss before plus what the pruned ranks were worth.
    const lostWorth = first!.pruned.reduce((sum, { module, index }) => {
      return sum + scored.full - scored.modules[module]![index]!.without!;
    }, 0);
    expect(Math.abs(first!.loss!.pruned - (first!.loss!.before + lostWorth))).toBeLessThan(1e-12);
    await run(opened, 11, 100);
    expect(events.map(({ round }) => round)).toEqual([1, 2, 3]);
    expect(adapters.liveParameters()).toBeLessThanOrEqual(budget.parameters);
  });

  it('never exceeds the budget with unequal costs, and says what was lost', async () => {
    for (const ranksPerRound of [1, 2, 3, 'perModel', 'perBlock'] as const) {
      const opened = open({ firstRoundAfter: 5, roundEvery: 5, rounds: 15, ranksPerRound });
      const { adapters, events, budget } = opened;
      for (let step = 1; step <= 100; step++) {
        await run(opened, step, step);
        expect(adapters.liveParameters()).toBeLessThanOrEqual(budget.parameters);
      }
      expect(events).toHaveLength(15);
      for (const event of events) {
        const grown = Object.values(event.grown).reduce((a, b) => a + b, 0);
        if (grown < event.pruned.length)
          expect(event.notes!.join(' ')).toMatch(/not granted again|no module with room/);
        for (const { module } of event.pruned) expect(event.grown[module]).toBeUndefined();
      }
    }
  });

  it('skips a round whose dev loss is not finite, which still counts', async () => {
    const opened = open(
      { firstRoundAfter: 2, roundEvery: 2, rounds: 2 },
      {
        loss: (setting, adapters) => (opened.host.step === 2 ? Number.NaN : additiveLoss(setting, adapters)),
      },
    );
    await run(opened, 1, 10);
    expect(opened.events).toHaveLength(2);
    expect(opened.events[0]).toMatchObject({ round: 1, pruned: [], grown: {} });
    expect(opened.events[0]!.notes![0]).toMatch(/not finite/);
    expect(opened.events[1]!.pruned.length).toBeGreaterThan(0);
  });

  it('leaves ranks alone whose score is not a number', async () => {
    const broken = (setting: GateSetting) => setting.on === 'none' && setting.except[0]?.[0] === 1;
    const opened = open(
      { firstRoundAfter: 1, roundEvery: 1, rounds: 1, ranksPerRound: 4 },
      { loss: (setting, adapters) => (broken(setting) ? Number.NaN : additiveLoss(setting, adapters)) },
    );
    await run(opened, 1, 1);
    const [event] = opened.events;
    expect(event!.pruned.map(({ module }) => module)).not.toContain(modules[1]!.name);
    expect(event!.grown[modules[1]!.name]).toBeUndefined();
    expect(event!.scores!.modules[modules[1]!.name]![0]).toMatchObject({ only: null, importance: null });
    expect(event!.notes!.join(' ')).toMatch(/2 ranks have no finite score/);
    // A scores file is JSON.
    expect(JSON.parse(JSON.stringify(event))).toEqual(event);
  });

  it('lists a module without ranks as [], and leaves it without', async () => {
    const opened = open({ firstRoundAfter: 1, roundEvery: 1, rounds: 3 });
    opened.adapters.prune(modules[2]!, [0, 1]);
    await run(opened, 1, 10);
    for (const { scores } of opened.events) expect(scores!.modules[modules[2]!.name]).toEqual([]);
    expect(opened.adapters.rank(modules[2]!)).toBe(0);
  });

  it('uses what there is of a dev set smaller than it asks for', async () => {
    const opened = open({ firstRoundAfter: 1, rounds: 1, examples: 32 }, { devRows: 5 });
    await run(opened, 1, 1);
    expect(opened.events[0]!.scores!.examples).toBe(5);
  });

  it('is settled from the start, and ends its search early where the run ends early', async () => {
    const opened = open({ scorer: 'exact' });
    expect(opened.scheduler.settled).toBeUndefined();
    await opened.scheduler.finish!(opened.host);
    await run(opened, 1, 100);
    expect(opened.events).toHaveLength(0);
  });
});

/** Slopes of the additive loss: what a rank is worth, whatever else is on. */
const slopes = (adapters: ReturnType<typeof open>['adapters']) =>
  modules.map((module, m) => Float64Array.from(adapters.serials(module), (serial) => -worth(m, serial)));

describe('the scorers', () => {
  it.each(['exact', 'taylor', 'screened'] as const)(
    '%s agrees with the others where the loss is linear',
    async (scorer) => {
      const opened: ReturnType<typeof open> = open(
        { scorer, firstRoundAfter: 10, roundEvery: 5, rounds: 3, ranksPerRound: 2 },
        { gateGradients: () => slopes(opened.adapters) },
      );
      await run(opened, 1, 100);
      const exact = open({ firstRoundAfter: 10, roundEvery: 5, rounds: 3, ranksPerRound: 2 });
      await run(exact, 1, 100);
      expect(
        opened.events.map(({ pruned, grown }) => [pruned.map(({ module, index }) => [module, index]), grown]),
      ).toEqual(
        exact.events.map(({ pruned, grown }) => [pruned.map(({ module, index }) => [module, index]), grown]),
      );
    },
  );

  it('screened measures twice as many as it prunes, and marks what is exact', async () => {
    const opened: ReturnType<typeof open> = open(
      { scorer: 'screened', firstRoundAfter: 1, rounds: 1, ranksPerRound: 2 },
      { gateGradients: () => slopes(opened.adapters) },
    );
    await run(opened, 1, 1);
    const flat = Object.values(opened.events[0]!.scores!.modules).flat();
    expect(flat.filter(({ exact }) => exact)).toHaveLength(4);
    expect(flat.filter(({ exact }) => !exact)).toHaveLength(4);
  });

  it('sensitivity follows the averages of the training gradients and belongs to a rank for life', async () => {
    const opened = open({
      scorer: 'sensitivity',
      firstRoundAfter: 4,
      roundEvery: 4,
      rounds: 2,
      ranksPerRound: 2,
    });
    const { adapters } = opened;
    await run(opened, 1, 4);
    // By hand: I = |A row . gradient row|, |a g|, |b g|; averages of four steps with beta 0.85.
    const replay = open({ scorer: 'sensitivity' });
    const of = (values: number[], steps: number[][]) => {
      let [mean, deviation] = [new Array(values.length).fill(0), new Array(values.length).fill(0)];
      for (const gradients of steps) {
        const seen = values.map((value, i) => Math.abs(value * gradients[i]!));
        mean = mean.map((m, i) => 0.85 * m + 0.15 * seen[i]!);
        deviation = deviation.map((d, i) => 0.85 * d + 0.15 * Math.abs(seen[i]! - mean[i]!));
      }
      return mean.reduce((sum, m, i) => sum + m * deviation[i]!, 0) / values.length;
    };
    const module = modules[0]!;
    const row = [...replay.adapters.parameter(module, 'lora_A').slice(0, 8)];
    const gradients = [1, 2, 3, 4].map((step) => {
      randomGradients(replay.adapters, step);
      return [...replay.adapters.gradient(module, 'lora_A').slice(0, 8)];
    });
    const dots = gradients.map((g) => [row.reduce((sum, value, i) => sum + value * g[i]!, 0)]);
    const expected = of([1], dots) + of(row, gradients);
    const measured = opened.events[0]!.scores!.modules[module.name]![0]!.importance!;
    // float32 averages against float64 ones; B is zero and adds nothing.
    expect(Math.abs(measured / expected - 1)).toBeLessThan(1e-5);
    await run(opened, 5, 8);
    expect(opened.events).toHaveLength(2);
    expect(adapters.liveParameters()).toBeLessThanOrEqual(opened.budget.parameters);
  });

  it('dnas learns gates from rows held back until the last round, then folds them into B', async () => {
    const asked: string[] = [];
    const opened: ReturnType<typeof open> = open(
      { scorer: 'dnas', firstRoundAfter: 20, roundEvery: 5, rounds: 2, ranksPerRound: 2 },
      {
        gateGradients: (on, data) => {
          asked.push(`${on} ${data}`);
          return slopes(opened.adapters);
        },
      },
    );
    const { adapters, scheduler } = opened;
    await run(opened, 1, 1);
    // First Adam step: 3e-4 against the sign of the slope, so alpha = 2 sigmoid(+-3e-4).
    const first = adapters.parameter(modules[0]!, 'gate')[0]!;
    expect(Math.abs(first - 2 / (1 + Math.exp(-3e-4 * Math.sign(worth(0, 0)))))).toBeLessThan(1e-7);
    await run(opened, 2, 19);
    expect(scheduler.heldBackShare!()).toBe(0.5);
    await run(opened, 20, 20);
    const [event] = opened.events;
    const flat = Object.values(event!.scores!.modules).flat();
    expect(event!.pruned[0]!.score).toBe(Math.min(...flat.map(({ importance }) => importance!)));
    await run(opened, 21, 24);
    const module = modules[0]!;
    const b = adapters.parameter(module, 'lora_B');
    b.fill(1);
    await run(opened, 25, 30);
    expect(scheduler.heldBackShare!()).toBe(0);
    expect([...adapters.parameter(module, 'gate')].every((gate) => gate === 1)).toBe(true);
    expect(asked).toEqual(new Array(25).fill('current heldBack'));
    // Survivors of the last round carry their gate in B; rows grown in it start at zero.
    const folded = [...adapters.parameter(module, 'lora_B')].filter((value) => value !== 0);
    expect(folded.every((value) => value !== 1 && Math.abs(value - 1) < 0.02)).toBe(true);
  });

  it.each(['exact', 'sensitivity', 'dnas'] as const)(
    '%s continues from its saved state as if it had not stopped',
    async (scorer) => {
      const given = { scorer, firstRoundAfter: 10, roundEvery: 6, rounds: 5, ranksPerRound: 2 };
      const start = () => {
        const opened: ReturnType<typeof open> = open(given, { gateGradients: () => slopes(opened.adapters) });
        return opened;
      };
      const through = start();
      await run(through, 1, 60);
      const first = start();
      await run(first, 1, 23);
      const scheduler = alora.scheduler!(first.outline, first.chosen);
      scheduler.restore(JSON.parse(JSON.stringify(first.scheduler.save())));
      await run({ ...first, scheduler }, 24, 60);
      expect(first.adapters.values).toEqual(through.adapters.values);
      expect(first.events.map(({ seconds: _, ...event }) => event)).toEqual(
        through.events.map(({ seconds: _, ...event }) => event),
      );
    },
  );

  it('score an adapter that somebody else made, without changing it', async () => {
    const opened: ReturnType<typeof open> = open({}, { gateGradients: () => slopes(opened.adapters) });
    const before = opened.adapters.values.slice();
    const exact = await alora.score(opened.host);
    const sensitivity = await alora.score(opened.host, { scorer: 'sensitivity', examples: 8 });
    expect(exact.scorer).toBe('exact');
    expect(exact.examples).toBe(32);
    expect(sensitivity.examples).toBe(8);
    expect(sensitivity.modules[modules[0]!.name]![0]!.importance).toBe(Math.abs(worth(0, 0)));
    expect(opened.adapters.values).toEqual(before);
  });
});

describe("ALoRA's options", () => {
  it('take steps and epochs', () => {
    expect(options({ firstRoundAfter: '1 epoch', roundEvery: '0.25 epochs' })).toMatchObject({
      firstRoundAfter: '1 epoch',
    });
    for (const wrong of [
      { roundEvery: '3' },
      { roundEvery: 0 },
      { scorer: 'exat' },
      { ranksPerRound: 'perMdel' },
      { round: 3 },
    ])
      expect(alora.options.safeParse(wrong).success).toBe(false);
  });
});
