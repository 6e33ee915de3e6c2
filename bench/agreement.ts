import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import type { AdapterStrategy, GateSetting, HostTrainer, ScoreTable } from 'onnx-alora/strategy';
import { type Allocation, allocate, lowestRanks, roundSize } from '../plugins/alora/allocator.ts';
import {
  type RanksPerRound,
  type RoundOptions,
  roundGroups,
  roundSchedule,
} from '../plugins/alora/rounds.ts';
import { readRunFile } from '../src/config/read.ts';
import { alora } from '../src/strategies.ts';
import { trainRun } from '../src/training/train.ts';
import { readArguments, wholes } from './arguments.ts';

const help = `npm run bench:agreement -- [run files] [options]

How often ALoRA's screened scorer prunes exactly the ranks that exact scores would: trains every run file with exact
scores once a seed and takes both decisions in every round. Where they differ, the loss of the round's dev batch after
each is compared, and the dev loss at the end of runs that each scorer led alone. Default: bench/agreement/moby-dick.yaml

  --seeds <numbers>    default 0,1,2
  --factors <numbers>  candidates of screened in multiples of what a round prunes (default 2,3,4)
  --no-runs            leave out the runs that screened leads
  --set <key=value>    replaces a value of the run files; may be repeated
  --out <file>         writes all scores of all rounds as JSON`;

const { values: options, positionals } = readArguments(help, {
  allowPositionals: true,
  options: {
    seeds: { type: 'string', default: '0,1,2' },
    factors: { type: 'string', default: '2,3,4' },
    'no-runs': { type: 'boolean', default: false },
    set: { type: 'string', multiple: true, default: [] },
    out: { type: 'string' },
  },
});
const files = positionals.length > 0 ? positionals : ['bench/agreement/moby-dick.yaml'];
const factors = wholes('factors', options.factors, 1);
const seeds = wholes('seeds', options.seeds, 0);

/** What both scorers say at one round. */
interface Round {
  readonly seed: number;
  readonly step: number;
  readonly full: number;
  readonly base: number;
  /** By module and rank; terms are S without the rank and S with only it. */
  readonly exact: Terms;
  readonly taylor: Terms;
  /** By exact scores of all ranks, then by screened, one a factor. */
  readonly decisions: readonly Allocation[];
  /** Loss of the dev batch without the ranks that each prunes; growing does not change it. */
  readonly lossAfter: readonly number[];
}

interface Terms {
  readonly importance: readonly (readonly number[])[];
  readonly without: readonly (readonly number[])[];
  readonly only: readonly (readonly number[])[];
}

function terms(table: ScoreTable): Terms {
  const of = (key: 'importance' | 'without' | 'only') =>
    Object.values(table.modules).map((ranks) => ranks.map((rank) => rank[key] ?? Number.NaN));
  return { importance: of('importance'), without: of('without'), only: of('only') };
}

/** A round as the scheduler makes it, if of the lowest by `estimate` only `factor` times as many as go are measured. */
function decide(
  { adapters }: HostTrainer,
  { groups, budget }: { readonly groups: ReturnType<typeof roundGroups>; readonly budget: number },
  exact: Terms['importance'],
  estimate: Terms['importance'],
  factor: number,
): Allocation {
  const sized = groups.map(({ members, count }) => ({
    members,
    count: roundSize(
      count,
      members.reduce((sum, m) => sum + exact[m]!.length, 0),
    ),
  }));
  const measured = exact.map((of) => of.map(() => Number.NaN));
  for (const { members, count } of sized)
    for (const [m, i] of lowestRanks(estimate, members, Math.ceil(factor * count)))
      measured[m]![i] = exact[m]![i]!;
  return allocate({
    importance: factor === exactly ? exact : estimate,
    prunable: measured,
    groups: sized,
    costs: adapters.modules.map((module) => adapters.costOfRank(module)),
    caps: adapters.modules.map((module) => Math.min(module.in, module.out)),
    budget,
  });
}

const exactly = Number.POSITIVE_INFINITY;
const ranksOf = ({ pruned }: Allocation) => pruned.map(String).sort().join(' ');

/** Losses are asked for twice in a round, by the comparison and by the scheduler: the second time they are known. */
function remembering(host: HostTrainer): HostTrainer {
  let known = new Map<string, number>();
  const losses = async (settings: readonly GateSetting[]) => {
    const fresh = settings.filter((setting) => !known.has(JSON.stringify(setting)));
    const found = fresh.length > 0 ? await host.losses(fresh) : [];
    fresh.forEach((setting, i) => {
      known.set(JSON.stringify(setting), found[i]!);
    });
    return Float64Array.from(settings, (setting) => known.get(JSON.stringify(setting))!);
  };
  return new Proxy(host, {
    get(target, name) {
      if (name === 'losses') return losses;
      if (name === 'prune' || name === 'grow') known = new Map();
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

type RoundSettings = RoundOptions & { readonly ranksPerRound: RanksPerRound; readonly examples: number };

/** ALoRA, with both decisions noted at every round. */
function watched(seed: number, rounds: Round[]): AdapterStrategy<unknown> {
  const strategy = alora as AdapterStrategy<unknown>;
  return {
    ...strategy,
    scheduler(run, own) {
      const scheduler = strategy.scheduler!(run, own);
      const { ranksPerRound, examples, ...given } = own as RoundSettings;
      const schedule = roundSchedule(run.totalSteps, run.stepsPerEpoch, given);
      const groups = roundGroups(run.modules, ranksPerRound);
      let done = 0;
      return {
        ...scheduler,
        async afterStep(host) {
          if (done === schedule.rounds || host.step < schedule.first + done * schedule.every)
            return scheduler.afterStep(host);
          done++;
          const view = remembering(host);
          const exactTable = await alora.score(view, { scorer: 'exact', examples });
          const exact = terms(exactTable);
          const taylor = terms(await alora.score(view, { scorer: 'taylor', examples }));
          const decisions = [exactly, ...factors].map((factor) =>
            decide(
              host,
              { groups, budget: run.budget.parameters },
              exact.importance,
              taylor.importance,
              factor,
            ),
          );
          const after = await view.losses(decisions.map(({ pruned }) => ({ on: 'all', except: pruned })));
          const { full, base } = exactTable;
          rounds.push({
            seed,
            step: host.step,
            full,
            base,
            exact,
            taylor,
            decisions,
            lossAfter: Array.from(after),
          });
          await scheduler.afterStep(view);
        },
      };
    },
  };
}

const folder = mkdtempSync(join(tmpdir(), 'onnx-alora-agreement-'));

async function train(file: string, seed: number, scorer: 'exact' | 'screened', rounds: Round[]) {
  const strategies = { alora: scorer === 'exact' ? watched(seed, rounds) : alora };
  const output = join(folder, `${basename(file, '.yaml')}-${scorer}-${seed}`);
  const set = [...options.set, `train.seed=${seed}`, `adapter.scorer=${scorer}`, `output=${output}`];
  const { config } = await readRunFile(file, { strategies, set });
  const result = await trainRun(config, { strategies });
  return result.dev!.last.loss;
}

const percent = (part: number, whole: number) => `${((100 * part) / whole).toFixed(0)} %`;
const signed = (value: number) => `${value < 0 ? '' : '+'}${value.toExponential(1)}`;
const record: unknown[] = [];
try {
  for (const file of files) {
    const rounds: Round[] = [];
    const ends: string[] = [];
    for (const seed of seeds) {
      const exact = await train(file, seed, 'exact', rounds);
      const screened = options['no-runs'] ? undefined : await train(file, seed, 'screened', []);
      if (screened !== undefined)
        ends.push(`seed ${seed}: ${exact.toFixed(4)} exact, ${screened.toFixed(4)} screened`);
    }
    const ranks = rounds.map(({ exact }) => exact.importance.flat().length);
    console.log(
      `${basename(file, '.yaml')}: ${rounds.length} rounds, ${Math.min(...ranks)} to ${Math.max(...ranks)} ranks`,
    );
    console.log(
      '\n| candidates | same ranks pruned | pruned ranks in common | same modules grow | loss after |',
    );
    console.log('|---|---|---|---|---|');
    factors.forEach((factor, f) => {
      const count = (agrees: (exact: Allocation, screened: Allocation) => boolean) => {
        const same = rounds.filter(({ decisions }) => agrees(decisions[0]!, decisions[f + 1]!)).length;
        return `${same} of ${rounds.length}, ${percent(same, rounds.length)}`;
      };
      let common = 0;
      let all = 0;
      for (const { decisions } of rounds) {
        const exact = new Set(decisions[0]!.pruned.map(String));
        all += exact.size;
        common += decisions[f + 1]!.pruned.filter((rank) => exact.has(String(rank))).length;
      }
      const differences = rounds.map(({ lossAfter }) => lossAfter[f + 1]! - lossAfter[0]!);
      const [least, most] = [Math.min(...differences), Math.max(...differences)];
      console.log(
        `| ${factor} n | ${count((a, b) => ranksOf(a) === ranksOf(b))} | ${percent(common, all)} | ${count((a, b) => String(a.grown) === String(b.grown))} | ${least === 0 && most === 0 ? 'the same' : `${signed(least)} to ${signed(most)}`} |`,
      );
    });
    if (ends.length > 0) console.log(`\nDev loss at the end: ${ends.join('; ')}\n`);
    record.push({ file: basename(file), rounds });
  }
  if (options.out) {
    mkdirSync(dirname(options.out), { recursive: true });
    writeFileSync(options.out, JSON.stringify(record));
  }
} finally {
  rmSync(folder, { recursive: true });
}
