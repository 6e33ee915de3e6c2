import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import type { AdapterStrategy, GateSetting, HostTrainer, ScoreTable } from 'onnx-alora/strategy';
import { lowestRanks, roundSize } from '../plugins/alora/allocator.ts';
import {
  type RanksPerRound,
  type RoundOptions,
  roundGroups,
  roundSchedule,
} from '../plugins/alora/rounds.ts';
import { readRunFile } from '../src/config/read.ts';
import { alora } from '../src/strategies.ts';
import { trainRun } from '../src/training/train.ts';

const help = `npm run bench:agreement -- [run files] [options]

How often ALoRA's screened scorer prunes exactly the ranks that exact scores would: trains every run file with exact
scores once a seed and takes both decisions in every round. Where they differ, the loss of the round's dev batch after
each is compared, and the dev loss at the end of runs that each scorer led alone. Default: bench/agreement/moby-dick.yaml

  --seeds <numbers>    default 0,1,2
  --factors <numbers>  candidates of screened in multiples of what a round prunes (default 1.5,2,3,4)
  --no-runs            leave out the runs that screened leads
  --set <key=value>    replaces a value of the run files; may be repeated
  --out <file>         writes all scores of all rounds as JSON`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: 'string', default: '0,1,2' },
    factors: { type: 'string', default: '1.5,2,3,4' },
    'no-runs': { type: 'boolean', default: false },
    set: { type: 'string', multiple: true, default: [] },
    out: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});
if (options.help) {
  console.log(help);
  process.exit(0);
}
const files = positionals.length > 0 ? positionals : ['bench/agreement/moby-dick.yaml'];
const factors = options.factors.split(',').map(Number);
const seeds = options.seeds.split(',').map(Number);

/** What both scorers say at one round. */
interface Round {
  readonly seed: number;
  readonly step: number;
  readonly full: number;
  readonly base: number;
  /** By module and rank; terms are S without the rank and S with only it. */
  readonly exact: Terms;
  readonly taylor: Terms;
  readonly groups: ReturnType<typeof roundGroups>;
  /** Loss of the dev batch without the ranks that exact prunes, and without those of screened, by factor. */
  readonly lossAfter: { readonly exact: number; readonly screened: readonly number[] };
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

/** What a round prunes if only the lowest by `estimate` are measured, `factor` times as many as go. */
function prunes({ exact, taylor, groups }: Pick<Round, 'exact' | 'taylor' | 'groups'>, factor: number) {
  return groups.flatMap(({ members, count }) => {
    const live = members.reduce((sum, m) => sum + exact.importance[m]!.length, 0);
    const size = roundSize(count, live);
    const candidates = lowestRanks(taylor.importance, members, Math.ceil(factor * size));
    const measured = exact.importance.map((of) => of.map(() => Number.NaN));
    for (const [m, i] of candidates) measured[m]![i] = exact.importance[m]![i]!;
    return lowestRanks(measured, members, size);
  });
}

const exactly = Number.POSITIVE_INFINITY;
const key = (ranks: readonly (readonly [number, number])[]) =>
  ranks
    .map(([m, i]) => `${m}:${i}`)
    .sort()
    .join(' ');

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
          const both = {
            exact: terms(exactTable),
            taylor: terms(await alora.score(view, { scorer: 'taylor', examples })),
            groups,
          };
          const sets = [exactly, ...factors].map((factor) => prunes(both, factor));
          const after = await view.losses(sets.map((except) => ({ on: 'all', except })));
          const { full, base } = exactTable;
          rounds.push({
            seed,
            step: host.step,
            full,
            base,
            ...both,
            lossAfter: { exact: after[0]!, screened: Array.from(after.slice(1)) },
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
    console.log('\n| candidates | same pruned set | pruned ranks in common | largest rise of the loss |');
    console.log('|---|---|---|---|');
    factors.forEach((factor, f) => {
      const pairs = rounds.map((round) => [prunes(round, exactly), prunes(round, factor)] as const);
      const same = pairs.filter(([a, b]) => key(a) === key(b)).length;
      const common = pairs.map(([a, b]) => {
        const of = new Set(a.map(([m, i]) => `${m}:${i}`));
        return b.filter(([m, i]) => of.has(`${m}:${i}`)).length;
      });
      const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);
      const rise = rounds.map(({ lossAfter }) => lossAfter.screened[f]! - lossAfter.exact);
      console.log(
        `| ${factor} n | ${same} of ${rounds.length}, ${percent(same, rounds.length)} | ${percent(total(common), total(pairs.map(([a]) => a.length)))} | ${Math.max(...rise).toExponential(1)} |`,
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
