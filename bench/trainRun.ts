// A real run of `train` on tokenised text: takes a case as JSON on standard input, prints one line of JSON.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { trainRun } from '../src/training/train.ts';
import { type StepCase, withTokenizer } from './cases.ts';
import { configOf, type Stretch, strategies, watchSessions } from './training.ts';

/** Seconds, one a step; a step lasts from the end of the one before to its own. */
export interface TrainTimes {
  readonly steps: readonly number[];
  /** Before ONNX Runtime works: the batch, its inputs, other turns of the event loop. */
  readonly before: readonly number[];
  /** After it, and between its runs: gradients summed and clipped, the optimizer, the line of metrics.jsonl. */
  readonly after: readonly number[];
  /** Of one checkpoint. */
  readonly checkpoints: readonly number[];
  /** Bytes of resident memory at its highest, two evaluations included. */
  readonly peak: number;
}

const step = JSON.parse(readFileSync(0, 'utf8')) as StepCase;
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-bench-'));
execFileSync(process.execPath, ['fixtures/data/moby-dick.mjs', scratch]);
withTokenizer(step.folder);

const runs: Stretch[] = [];
watchSessions({ onRun: (run) => runs.push(run) });
const ends: number[] = [];
const checkpoints: Stretch[] = [];
const config = configOf(step);
try {
  await trainRun(
    {
      ...config,
      data: {
        ...config.data,
        train: join(scratch, 'dev.txt'),
        dev: join(scratch, 'test.txt'),
        maxLength: step.length,
        maxRows: { dev: step.batch },
      },
      train: { ...config.train, batchSize: step.batch, checkpointEvery: 3, evalEvery: 0, sample: false },
      output: join(scratch, 'run'),
    },
    {
      strategies,
      reporters: [
        {
          onStep: () => ends.push(performance.now()),
          onCheckpoint({ kind }) {
            if (kind === 'checkpoint') checkpoints.push({ begun: ends.at(-1)!, ended: performance.now() });
          },
        },
      ],
    },
  );
} finally {
  rmSync(scratch, { recursive: true });
}

// The first step warms up. A checkpoint after a step is no part of the next.
const times = ends.slice(1).map((ended, i) => {
  const begun = checkpoints.find((checkpoint) => checkpoint.begun === ends[i])?.ended ?? ends[i]!;
  const own = runs.filter((run) => run.begun >= begun && run.ended <= ended);
  const running = own.reduce((sum, run) => sum + run.ended - run.begun, 0);
  const before = own[0]!.begun - begun;
  return { step: ended - begun, before, after: ended - begun - before - running };
});
const inSeconds = (values: readonly number[]) => values.map((value) => value / 1000);
const measured: TrainTimes = {
  steps: inSeconds(times.map((time) => time.step)),
  before: inSeconds(times.map((time) => time.before)),
  after: inSeconds(times.map((time) => time.after)),
  checkpoints: inSeconds(checkpoints.map(({ begun, ended }) => ended - begun)),
  peak: process.resourceUsage().maxRSS * 1024,
};
console.log(JSON.stringify(measured));
