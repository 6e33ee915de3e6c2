import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AdapterStrategy, ScoreTable } from 'onnx-alora/strategy';
import { scorerNames } from '../plugins/alora/scorers/index.ts';
import { median } from '../src/compare/statistics.ts';
import { resolveRunConfig } from '../src/config/resolve.ts';
import { alora } from '../src/strategies.ts';
import type { AllocationEvent } from '../src/training/reporter.ts';
import { trainRun } from '../src/training/train.ts';
import { readArguments, whole, wholes, words } from './arguments.ts';

const help = `npm run bench:scorers -- [options]

ALoRA's scorers beside each other: Moby Dick on the embedded model, one run a scorer and seed. Prints a Markdown table
(medians over the seeds): dev loss at the end, seconds spent scoring, and how many of the ranks that a round pruned are
among those that exact scores of the same moment would have pruned.

  --scorers <names>  ${scorerNames.join(',')} (default: all)
  --seeds <numbers>  default 0,1,2
  --rank <n>         the budget (default 4)
  --rounds <n>       default 4
  --steps <n>        default 125`;

const { values: options } = readArguments(help, {
  options: {
    scorers: { type: 'string', default: scorerNames.join(',') },
    seeds: { type: 'string', default: '0,1,2' },
    rank: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '4' },
    steps: { type: 'string', default: '125' },
  },
});

const folder = mkdtempSync(join(tmpdir(), 'onnx-alora-scorers-'));
execFileSync(process.execPath, ['fixtures/data/moby-dick.mjs', folder]);

interface Outcome {
  readonly loss: number;
  readonly seconds: number;
  /** Share of the pruned ranks that exact would have pruned, over all rounds. */
  readonly agreement: number;
}

interface Counts {
  seconds: number;
  same: number;
  pruned: number;
  /** The allocation that was reported last. */
  last?: AllocationEvent;
}

/** ALoRA with a stopwatch, and exact scores taken beside every round. */
function watched(outcome: Counts): AdapterStrategy<unknown> {
  const strategy = alora as AdapterStrategy<unknown>;
  return {
    ...strategy,
    scheduler(run, own) {
      const scheduler = strategy.scheduler!(run, own);
      const timed = async (work: () => void | Promise<void>) => {
        const begun = performance.now();
        await work();
        outcome.seconds += (performance.now() - begun) / 1000;
      };
      let rounds = 0;
      return {
        ...scheduler,
        beforeStep: (host) => timed(() => scheduler.beforeStep?.(host)),
        async afterStep(host) {
          const before = scheduler.save() as { searching: boolean };
          const due = before.searching && isRound(host.step, rounds);
          const exact = due ? await alora.score(host, { scorer: 'exact' }) : undefined;
          await timed(() => scheduler.afterStep(host));
          const event = outcome.last;
          if (!event || !exact) return;
          rounds++;
          const reference = lowest(exact, event.pruned.length);
          outcome.pruned += event.pruned.length;
          outcome.same += event.pruned.filter(({ module, index }) =>
            reference.has(`${module} ${index}`),
          ).length;
        },
      };
    },
  };
}

const [totalSteps, rounds] = [whole('steps', options.steps, 1), whole('rounds', options.rounds, 1)];
const first = Math.floor(totalSteps / 4);
const every = Math.floor(totalSteps / 2 / rounds);
const isRound = (step: number, done: number) => step === first + done * every;

function lowest(table: ScoreTable, count: number): Set<string> {
  return new Set(
    Object.entries(table.modules)
      .flatMap(([module, ranks]) => ranks.map((rank) => ({ module, ...rank })))
      .filter(({ importance }) => importance !== null)
      .sort((a, b) => a.importance! - b.importance! || b.index - a.index)
      .slice(0, count)
      .map(({ module, index }) => `${module} ${index}`),
  );
}

async function measure(scorer: string, seed: number): Promise<Outcome> {
  const counted: Counts = { seconds: 0, same: 0, pruned: 0 };
  const strategies = { alora: watched(counted) };
  const config = resolveRunConfig(
    {
      model: { path: 'fixtures/models/presidents' },
      data: {
        task: 'text',
        train: join(folder, 'train.txt'),
        dev: join(folder, 'dev.txt'),
        maxLength: 96,
        maxRows: { dev: 200 },
      },
      adapter: { strategy: 'alora', scorer, rounds, firstRoundAfter: first, roundEvery: every },
      budget: { rank: whole('rank', options.rank, 1) },
      train: { steps: totalSteps, batchSize: 8, learningRate: 1.2e-2, evalEvery: 0, patience: 0, seed },
      output: join(folder, `${scorer}-${seed}`),
    },
    { strategies },
  );
  const result = await trainRun(config, {
    strategies,
    reporters: [
      {
        onAllocation: (event) => {
          counted.last = event;
        },
      },
    ],
  });
  return { loss: result.dev!.last.loss, seconds: counted.seconds, agreement: counted.same / counted.pruned };
}

try {
  console.log('| scorer | dev loss | seconds scoring | pruned as exact would |\n|---|---|---|---|');
  for (const scorer of words('scorers', options.scorers, scorerNames)) {
    const outcomes: Outcome[] = [];
    for (const seed of wholes('seeds', options.seeds, 0)) outcomes.push(await measure(scorer, seed));
    const of = (key: keyof Outcome) => median(outcomes.map((outcome) => outcome[key]));
    const range = outcomes.map(({ loss }) => loss.toFixed(3)).sort();
    console.log(
      `| \`${scorer}\` | ${of('loss').toFixed(3)} (${range[0]} to ${range.at(-1)}) | ${of('seconds').toFixed(1)} | ${(100 * of('agreement')).toFixed(0)} % |`,
    );
  }
} finally {
  rmSync(folder, { recursive: true });
}
