import type { AdapterSet } from '../adapters/adapterSet.ts';
import { resolveBudget } from '../adapters/budget.ts';
import { parameterInput } from '../adapters/rewriter.ts';
import type { AdapterStrategy, Budget } from '../adapters/strategy.ts';
import { randomStream } from '../random.ts';
import { openTinyRun, ranksOf, type TinyRun, trainingRows } from './tinyHost.ts';
import { openTinyModel, type TinyModel, tinyModules, tinyRows, tinyWeights } from './tinyModel.ts';

/** One requirement of the contract. `run` rejects with what was expected and what was found. */
export interface ConformanceCheck {
  readonly name: string;
  run(): Promise<void>;
}

/** What the conformance suite is told of a strategy. */
export interface ConformanceOptions {
  /** The strategy's own keys, as a run file would have them. Default: none. */
  readonly options?: Readonly<Record<string, unknown>>;
  /** Default: 4 of the model's ranks, 640 scalars. Modules cost 36, 36, 44 and 44 a rank, or one more with a gate. */
  readonly budget?: { readonly rank?: number; readonly parameters?: number };
  /** Steps of a whole run, 8 an epoch. Default: 40. */
  readonly totalSteps?: number;
}

/**
 * What every strategy has to hold, as named checks for any test runner:
 *
 *     describe.each(conformanceChecks(mine))('$name', ({ run }) => { it('holds', run) })
 *
 * They train a network of two small blocks in memory; each takes less than a second. Shapes that a strategy does
 * not have (gates, a scheduler, the low-rank form) leave their checks out.
 */
export function conformanceChecks<O>(
  strategy: AdapterStrategy<O>,
  { options: given = {}, budget: request = { rank: 4 }, totalSteps = 40 }: ConformanceOptions = {},
): ConformanceCheck[] {
  const budget = resolveBudget(tinyModules, request);
  const options = () => strategy.options.parse(given);
  const open = (seed = 0) =>
    openTinyRun(strategy, options(), { totalSteps, budget, seed, alpha: 2 * budget.rank });
  const withRun = async (use: (run: TinyRun) => Promise<void>, seed = 0): Promise<void> => {
    const run = await open(seed);
    try {
      await use(run);
    } finally {
      await run.close();
    }
  };

  const checks: ConformanceCheck[] = [
    {
      name: 'refuses an option that it does not know',
      async run() {
        const result = strategy.options.safeParse({ ...given, noSuchOption: 1 });
        require(!result.success, 'options accept an unknown key: use z.strictObject');
      },
    },
    {
      name: 'plans between 99 % and 100 % of the budget',
      async run() {
        const plan = strategy.plan(tinyModules, budget, options(), { totalSteps, stepsPerEpoch: 8 });
        equal(plan.initial.length, tinyModules.length, 'initial ranks, one a module');
        for (const rank of plan.initial) require(Number.isInteger(rank) && rank >= 0, `a rank of ${rank}`);
        within(plan.final, 0.99 * budget.parameters, budget.parameters, 'planned final parameters');
        require(plan.peak >= plan.final, `a peak of ${plan.peak} below the end of ${plan.final}`);
        within(plan.average, plan.final, plan.peak, 'planned average parameters');
      },
    },
    {
      name: 'declares optimizer groups before it uses them',
      async run() {
        const known = ['main', ...Object.keys(strategy.groups?.(options()) ?? {})];
        await withRun(async ({ adapters }) => {
          for (const { spec } of adapters.slots)
            require(known.includes(spec.group ?? 'main'), `parameter ${spec.role} is in group ${spec.group}`);
        });
      },
    },
    {
      name: 'counts what it plans at the start',
      run: () =>
        withRun(async ({ adapters, plan }) => {
          within(adapters.liveParameters(), plan.final, plan.peak, 'live parameters at the start');
        }),
    },
    {
      name: 'leaves the function as it is at the start',
      run: () =>
        withRun(async (run) => {
          const base = await run.model.run(empty(run), devRows);
          const adapted = await run.model.run(run.adapters, devRows);
          // Both are the same sums in float32; a zero may have been added.
          close(adapted.logits, base.logits, 1e-6, 'logits with the fresh adapter and without');
        }),
    },
    {
      name: 'has the gradients of its loss and penalty',
      run: () => withRun(checkGradients),
    },
    {
      name: 'works without ranks in a module, and grows without changing the function',
      run: () =>
        withRun(async ({ adapters, model }) => {
          randomize(adapters, 3);
          const before = await model.run(adapters, devRows);
          for (const module of tinyModules) adapters.grow(module, 1);
          const grown = await model.run(adapters, devRows);
          close(grown.logits, before.logits, 1e-5, 'logits before and after growth');
          for (const module of tinyModules)
            adapters.prune(
              module,
              Array.from({ length: adapters.rank(module) }, (_, i) => i),
            );
          const none = await model.run(adapters, devRows);
          require(none.logits.every(Number.isFinite), 'logits without ranks are not finite');
          require([...none.gradients.values()]
            .flatMap((of) => [...of])
            .every(Number.isFinite), 'gradients without ranks are not finite');
        }),
    },
    {
      name: 'repeats a run under the same seed, and starts differently under another',
      async run() {
        const values: Float32Array[] = [];
        for (const seed of [1, 1, 2])
          await withRun(async (run) => {
            if (seed === 1) await run.trainTo(totalSteps);
            values.push(run.adapters.values.slice());
          }, seed);
        identical(values[0]!, values[1]!, 'parameters of two runs with one seed');
        let start: Float32Array | undefined;
        await withRun(async (run) => {
          start = run.adapters.values.slice();
        }, 1);
        require(!same(start!, values[2]!), 'two seeds start from the same values');
      },
    },
    {
      name: 'learns',
      run: () =>
        withRun(async (run) => {
          await run.trainTo(totalSteps);
          const mean = (of: readonly number[]) => of.reduce((a, b) => a + b, 0) / of.length;
          const [first, last] = [mean(run.losses.slice(0, 8)), mean(run.losses.slice(-8))];
          require(last < first, `the loss went from ${first} in the first epoch to ${last} in the last`);
        }),
    },
    {
      name: 'ends within the budget',
      run: () =>
        withRun(async (run) => {
          await run.trainTo(totalSteps);
          const live = run.adapters.liveParameters();
          require(live <= budget.parameters, `${live} live parameters, budget ${budget.parameters}`);
          require(run.scheduler?.settled?.() ?? true, 'settled() is false after the last step');
        }),
    },
    {
      name: 'continues from a checkpoint as if it had not stopped',
      run: () => checkResume(open, totalSteps),
    },
  ];
  if (strategy.scheduler)
    checks.push({
      name: 'changes ranks at least once, and reports what it did',
      run: () => withRun((run) => checkEvents(run, totalSteps)),
    });
  checks.push({
    name: 'folds into the weights',
    run: () => checkFolding(strategy, options(), budget),
  });
  return checks;
}

const devRows = tinyRows(16, 'conformance');

/** The same parameters without any rank. */
function empty({ model }: TinyRun): AdapterSet {
  return model.arena(
    tinyModules.map(() => 0),
    0,
  );
}

/** Every parameter a number of some size, so that no gradient is zero for want of a factor. */
function randomize(adapters: AdapterSet, seed: number): void {
  const random = randomStream(seed, 'conformance');
  for (let i = 0; i < adapters.values.length; i++) adapters.values[i] = 0.3 * random.normal();
}

/**
 * Directional derivatives of loss + penalty by central differences, with Richardson extrapolation, along the
 * gradient and along a random direction, one parameter at a time.
 */
async function checkGradients({ model, adapters }: TinyRun): Promise<void> {
  randomize(adapters, 1);
  const { gradients } = await model.run(adapters, trainingRows);
  const random = randomStream(2, 'conformance');
  for (const slot of adapters.slots) {
    if (!slot.spec.trained) continue;
    const name = parameterInput(slot.module, slot.spec.role);
    const gradient = gradients.get(name);
    require(gradient !== undefined, `the loss does not depend on ${name}, which is declared as trained`);
    const values = adapters.view('values', slot);
    const start = values.slice();
    const at = async (direction: Float32Array, h: number) => {
      for (let i = 0; i < start.length; i++) values[i] = start[i]! + h * direction[i]!;
      const { loss, penalty } = await model.run(adapters, trainingRows);
      values.set(start);
      return loss + penalty;
    };
    const size = norm(gradient!);
    const directions = [
      gradient!.map((value) => value / size),
      normalized(gradient!.map(() => random.normal())),
    ];
    for (const direction of size > 1e-4 ? directions : directions.slice(1)) {
      const h = 0.02;
      const near = (await at(direction, h)) - (await at(direction, -h));
      const far = (await at(direction, 2 * h)) - (await at(direction, -2 * h));
      const measured = (8 * near - far) / (12 * h);
      const claimed = direction.reduce((sum, value, i) => sum + value * gradient![i]!, 0);
      // A float32 loss near 2 is exact to 1e-7, so a quotient by 0.02 to about 1e-5; 5e-4 leaves room for curvature.
      const allowed = 5e-4 + 0.01 * Math.abs(claimed);
      require(Math.abs(measured - claimed) <=
        allowed, `gradient of ${name}: ${claimed} along a direction in which the loss changes by ${measured}`);
    }
  }
}

async function checkResume(open: () => Promise<TinyRun>, totalSteps: number): Promise<void> {
  const through = await open();
  const cuts = [1, Math.floor(totalSteps / 3), Math.floor(totalSteps / 2), totalSteps - 1];
  const texts: string[] = [];
  for (const cut of cuts) {
    await through.trainTo(cut);
    texts.push(JSON.stringify(through.save()));
  }
  await through.trainTo(totalSteps);
  await through.close();
  for (const [i, cut] of cuts.entries()) {
    const resumed = await open();
    resumed.restore(JSON.parse(texts[i]!));
    await resumed.trainTo(totalSteps);
    await resumed.close();
    equal(ranksOf(resumed.adapters), ranksOf(through.adapters), `ranks of a run resumed at step ${cut}`);
    identical(resumed.adapters.values, through.adapters.values, `parameters of a run resumed at step ${cut}`);
    equal(
      tinyModules.map((module) => resumed.adapters.live(module)),
      tinyModules.map((module) => through.adapters.live(module)),
      `live ranks of a run resumed at step ${cut}`,
    );
  }
}

async function checkEvents(run: TinyRun, totalSteps: number): Promise<void> {
  await run.trainTo(totalSteps);
  require(run.events.length > 0, `no allocation was logged in ${totalSteps} steps`);
  const names = new Set(tinyModules.map(({ name }) => name));
  let rounds = 0;
  for (const event of run.events) {
    require(event.round > rounds, `round ${event.round} after round ${rounds}`);
    rounds = event.round;
    for (const { module, index } of event.pruned)
      require(names.has(module) && Number.isInteger(index) && index >= 0, `pruned ${module} ${index}`);
    for (const [module, count] of Object.entries(event.grown))
      require(names.has(module) && Number.isInteger(count) && count > 0, `grown ${module} by ${count}`);
    equal(JSON.parse(JSON.stringify(event)), JSON.parse(JSON.stringify({ ...event })), 'an event as JSON');
    if (event.scores)
      equal(Object.keys(event.scores.modules).sort(), [...names].sort(), 'modules of a scores file');
  }
  require(run.events.some(
    ({ pruned, grown }) => pruned.length > 0 || Object.keys(grown).length > 0,
  ), 'no event changes a rank');
}

/** W + s A^T diag(g) B in place of W gives the same function. Other forms than the low-rank one have nothing to fold. */
async function checkFolding<O>(strategy: AdapterStrategy<O>, options: O, budget: Budget): Promise<void> {
  const alpha = 2 * budget.rank;
  const adapted = await openTinyModel(strategy, budget, options, { alpha });
  const adapters = adapted.arena([2, 3, 0, 1], 5);
  randomize(adapters, 4);
  const weights = tinyWeights();
  const foldable = adapted.injections.every(({ scaling }) => scaling !== undefined);
  for (const { module, scaling } of foldable ? adapted.injections : []) {
    const a = adapters.parameter(module, 'lora_A');
    const b = adapters.parameter(module, 'lora_B');
    const gate = adapters.parameter(module, 'gate');
    const weight = weights.get(module.name)!;
    for (let r = 0; r < gate.length; r++)
      for (let i = 0; i < module.in; i++)
        for (let o = 0; o < module.out; o++)
          weight[i * module.out + o]! += scaling! * a[r * module.in + i]! * gate[r]! * b[r * module.out + o]!;
  }
  const merged = await openTinyModel(strategy, budget, options, { alpha, weights });
  try {
    if (!foldable) return;
    const beside = await adapted.run(adapters, devRows);
    const folded = await merged.run(emptyOf(merged), devRows);
    // The same products in another order, float32, through four layers.
    close(folded.logits, beside.logits, 1e-3, 'logits of the merged weights and of the adapter beside them');
  } finally {
    await adapted.close();
    await merged.close();
  }
}

function emptyOf(model: TinyModel): AdapterSet {
  return model.arena(
    tinyModules.map(() => 0),
    0,
  );
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

function normalized(values: Float32Array): Float32Array {
  const size = norm(values);
  return values.map((value) => value / size);
}

function require(condition: boolean, message: string): void {
  if (!condition) throw new Error(message);
}

function equal(found: unknown, expected: unknown, what: string): void {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
  require(a === b, `${what}: expected ${b}, found ${a}`);
}

function within(value: number, low: number, high: number, what: string): void {
  // A millionth: averages are quotients.
  require(value >= low - 1e-6 && value <= high + 1e-6, `${what}: ${value} is not between ${low} and ${high}`);
}

function close(found: Float32Array, expected: Float32Array, tolerance: number, what: string): void {
  const difference = Math.max(...found.map((value, i) => Math.abs(value - expected[i]!)));
  require(difference <= tolerance, `${what} differ by ${difference}`);
}

function same(a: Float32Array, b: Float32Array): boolean {
  return a.length === b.length && a.every((value, i) => Object.is(value, b[i]));
}

function identical(found: Float32Array, expected: Float32Array, what: string): void {
  require(same(found, expected), `${what} are not identical`);
}
