// One process, one way to score ranks: takes a ScoringCase as JSON on standard input, prints one line of JSON.
import { readFileSync } from 'node:fs';
import { resolveRunConfig } from '../src/config/resolve.ts';
import { randomStream } from '../src/random.ts';
import { gatesOf, naiveGateLosses } from '../src/runtime/gateLosses.ts';
import { StagedLosses } from '../src/runtime/stagedLosses.ts';
import { alora } from '../src/strategies.ts';
import type { Batch } from '../src/tasks/collate.ts';
import type { Example } from '../src/tasks/task.ts';
import { assemble, openModel } from '../src/training/assemble.ts';
import { evaluationBatches } from '../src/training/evaluation.ts';
import { ReferenceHost } from '../src/training/host.ts';
import type { StepCase } from './cases.ts';

export const ways = ['whole', 'labelled', 'exact', 'screened', 'taylor'] as const;
export type Way = (typeof ways)[number];

export interface ScoringCase {
  readonly step: StepCase;
  readonly way: Way;
}

/** Seconds of the clock and of the processor. */
export interface Time {
  readonly seconds: number;
  readonly cpu: number;
}

/** What a process measured, and what it makes of all settings. */
export interface Scored {
  /** For a round: what was measured, or what the sample comes to for all settings. */
  readonly time: Time;
  /** Ranks of the model; a round of exact scores has 2 ranks + 1 settings. */
  readonly ranks: number;
  /** Gate settings that were measured, and their losses by name. */
  readonly losses: Readonly<Record<string, number>>;
  /** exact: seconds of one setting, and of what is shared by all. */
  readonly parts?: { readonly setting: Time; readonly shared: Time };
  /** Bytes of resident memory at its highest. */
  readonly peak: number;
}

/** Rows of the dev batch. */
const devRows = 32;

const { step, way } = JSON.parse(readFileSync(0, 'utf8')) as ScoringCase;
const { length, answer, vocabulary } = step;
const strategies = { alora };
const config = resolveRunConfig(
  {
    model: { path: step.folder, targets: [...step.targets] },
    data: { task: 'text', train: 'none.jsonl' },
    adapter: { strategy: 'alora', alpha: 2 * step.rank },
    budget: { rank: step.rank },
    train: { steps: 1 },
    runtime: { threads: step.threads },
  },
  { strategies },
);
const run = assemble(openModel(config.model), config, {
  strategies,
  length: { totalSteps: 1, stepsPerEpoch: 1 },
});
const { adapters, runtime } = run;
const random = randomStream(0, 'scoring');
for (const slot of adapters.slots)
  if (slot.spec.role === 'lora_B')
    adapters.view('values', slot).forEach((_, i, values) => {
      values[i] = 0.02 * (random.uniform() - 0.5);
    });
const dev = Array.from({ length: devRows }, (_, row): Example => {
  const token = () => random.integer(vocabulary);
  const ids = Array.from({ length }, token);
  // As a shifted loss has it: the last position predicts nothing.
  const targets = ids.map((_, i) => (i >= length - 1 - answer && i < length - 1 ? token() : -1));
  return { kind: 'token', ids, targets, source: { file: 'bench', line: row + 1 } };
});
const host = new ReferenceHost({
  runtime,
  adapters,
  totalSteps: 1,
  stepsPerEpoch: 1,
  seed: 0,
  dev,
  padId: 0,
  batchSize: config.train.batchSize,
  nextHeldBack: () => {
    throw new Error('there is no training set');
  },
  onAllocation: () => {},
});
host.devBatch(devRows);
const batches = evaluationBatches(dev, { batchSize: 8, padId: 0, tokensOfRun: runtime.tokensOfRun });
const ranks = adapters.modules.reduce((sum, module) => sum + adapters.rank(module), 0);

/** A setting of each kind in a module for every block, all kinds of modules by turns. */
function sample(rank: number) {
  const blocks = new Set(adapters.modules.map(({ block }) => block)).size;
  const each = adapters.modules.length / blocks;
  return Array.from({ length: blocks }, (_, b) => each * b + (b % each)).flatMap((module) =>
    (['all', 'none'] as const).map((on) => ({ on, except: [[module, rank]] as [number, number][] })),
  );
}
type Setting = ReturnType<typeof sample>[number];

let begun = performance.now();
let used = process.cpuUsage();
/** What has passed since the last one. */
function lap(): Time {
  const { user, system } = process.cpuUsage(used);
  const time = { seconds: (performance.now() - begun) / 1000, cpu: (user + system) / 1e6 };
  begun = performance.now();
  used = process.cpuUsage();
  return time;
}
const combine = (of: (key: keyof Time) => number): Time => ({ seconds: of('seconds'), cpu: of('cpu') });

/** Mean loss by a pass whose head sees every position; the loss counts the labelled ones. */
async function wholePass(setting: Setting): Promise<number> {
  let sum = 0;
  for (const batch of batches) {
    const rows = BigInt64Array.from({ length: batch.size * batch.length }, (_, i) => BigInt(i));
    const targets = new BigInt64Array(rows.length);
    batch.rows.forEach((row, i) => {
      targets[Number(row)] = batch.targets[i]!;
    });
    const all: Batch = { ...batch, rows, targets, labels: rows.length };
    const { losses } = await runtime.evaluate(all, gatesOf(runtime, setting));
    for (const row of batch.rows) sum += losses[Number(row)]!;
  }
  return sum / batches.reduce((total, { labels }) => total + labels, 0);
}

async function measure(): Promise<Omit<Scored, 'peak' | 'ranks'>> {
  const settings = sample(0);
  const byName = (values: ArrayLike<number>) =>
    Object.fromEntries(
      Array.from(values, (loss, i) => [`${settings[i]!.on} ${settings[i]!.except[0]![0]}`, loss]),
    );
  const all = 2 * ranks + 1;
  switch (way) {
    case 'whole':
    case 'labelled': {
      const some = settings.slice(4, way === 'whole' ? 8 : 12);
      const one =
        way === 'whole'
          ? wholePass
          : async (s: Setting) => (await naiveGateLosses(runtime, batches, [s]))[0]!;
      // The first pass opens the session and warms the allocator.
      await one(settings[0]!);
      lap();
      const losses: number[] = [];
      for (const setting of some) losses.push(await one(setting));
      const spent = lap();
      return {
        time: combine((key) => (all * spent[key]) / some.length),
        losses: Object.fromEntries(some.map((s, i) => [`${s.on} ${s.except[0]![0]}`, losses[i]!])),
      };
    }
    case 'exact': {
      const staged = await StagedLosses.open(runtime);
      // A rank of each module of the sample, then two: the difference is what settings cost, the rest is shared by
      // all settings of a module.
      const losses = await staged.losses(batches, settings);
      const first = lap();
      await staged.losses(batches, [...sample(1), ...sample(2)]);
      const second = lap();
      const setting = combine((key) => (second[key] - first[key]) / settings.length);
      const modules = adapters.modules.length / (settings.length / 2);
      const shared = combine((key) => modules * (first[key] - settings.length * setting[key]));
      const time = combine((key) => all * setting[key] + shared[key]);
      return { time, losses: byName(losses), parts: { setting, shared } };
    }
    default:
      await alora.score(host, { scorer: way, examples: devRows });
      return { time: lap(), losses: {} };
  }
}

await runtime.evaluate(batches[0]!);
if (way === 'screened' || way === 'taylor') await host.gateGradients('all', 'dev');
lap();
const measured = await measure();
await run.close();
const scored: Scored = { ...measured, ranks, peak: process.resourceUsage().maxRSS * 1024 };
console.log(JSON.stringify(scored));
