import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RunConfigInput } from '../../src/config/schema.ts';
import { train } from '../../src/index.ts';
import { builtCli } from '../cli/builtCli.ts';

const root = join(import.meta.dirname, '../..');
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-worker-'));
const workerFile = join(scratch, 'train-worker.mjs');
afterAll(() => rmSync(scratch, { recursive: true }));

/** The worker of docs/worker.md, on the package built from the sources as they are. */
beforeAll(async () => {
  const built = pathToFileURL(join(dirname(await builtCli()), 'index.js')).href;
  const page = readFileSync(join(root, 'docs/worker.md'), 'utf8');
  const [, code] = /```js\n\/\/ train-worker\.mjs\n(.*?)```/s.exec(page)!;
  writeFileSync(workerFile, code!.replace("'onnx-alora'", JSON.stringify(built)));
  const text = 'The people of this country have always met their duty with courage and with hope. '.repeat(
    20,
  );
  writeFileSync(join(scratch, 'train.jsonl'), `${JSON.stringify({ text })}\n`.repeat(16));
}, 120_000);

/** Few steps, each a few hundred milliseconds of one core. */
const run = (name: string): RunConfigInput => ({
  model: { path: join(root, 'fixtures/models/presidents') },
  data: { task: 'text', train: join(scratch, 'train.jsonl'), maxLength: 128 },
  adapter: { strategy: 'lora' },
  budget: { rank: 2 },
  train: { steps: 4, batchSize: 16, learningRate: 1e-3, evalEvery: 0 },
  runtime: { threads: 1 },
  output: join(scratch, name),
});

/** A timer of the host: the longest time between two of its ticks, and how many there were. */
function ticking() {
  let last = performance.now();
  const seen = { longest: 0, ticks: 0 };
  const timer = setInterval(() => {
    const now = performance.now();
    seen.longest = Math.max(seen.longest, now - last);
    seen.ticks++;
    last = now;
  }, 5);
  return {
    seen,
    restart() {
      last = performance.now();
      Object.assign(seen, { longest: 0, ticks: 0 });
    },
    stop: () => clearInterval(timer),
  };
}

interface StepMessage {
  readonly step: number;
  readonly ms: number;
}

function startWorker(config: RunConfigInput, onStep: (step: StepMessage, worker: Worker) => void) {
  const worker = new Worker(workerFile, { workerData: config });
  return new Promise<void>((done, failed) => {
    worker.on('message', (message: Partial<StepMessage>) => {
      if (message.step !== undefined) onStep(message as StepMessage, worker);
    });
    worker.on('error', failed);
    worker.on('exit', () => done());
  });
}

describe('the event loop of the host', () => {
  it('is free all the time while a worker trains', async () => {
    const { seen, restart, stop } = ticking();
    const steps: number[] = [];
    await startWorker(run('in-a-worker'), ({ ms }) => {
      if (steps.length === 0) restart();
      steps.push(ms);
    });
    stop();
    expect(steps).toHaveLength(4);
    expect(existsSync(join(scratch, 'in-a-worker/result.json'))).toBe(true);
    // A host that computed itself would be silent for a whole step (below). Other work on the machine lengthens both.
    expect(seen.longest).toBeLessThan(Math.min(...steps) / 2);
  });

  it('is free between steps where the same thread trains, and only there', async () => {
    const { seen, restart, stop } = ticking();
    const steps: { ms: number; ticks: number }[] = [];
    await train(run('here'), {
      reporters: [
        {
          onStep({ ms }) {
            if (steps.length === 0) restart();
            steps.push({ ms, ticks: seen.ticks });
          },
        },
      ],
    });
    stop();
    const betweenSteps = steps.slice(1).map(({ ticks }, i) => ticks - steps[i]!.ticks);
    expect(Math.min(...betweenSteps)).toBeGreaterThan(0);
    // Of a step, nearly all is one call of ONNX Runtime, which the timer has to wait for.
    expect(seen.longest).toBeGreaterThan(Math.min(...steps.map(({ ms }) => ms)) / 2);
  });
});

it('a message stops the worker after its step, with a checkpoint', async () => {
  const steps: number[] = [];
  const stopped = startWorker(run('stopped'), ({ step }, worker) => {
    steps.push(step);
    worker.postMessage('stop');
  });
  await expect(stopped).rejects.toMatchObject({ code: 'INTERRUPTED' });
  expect(steps.length).toBeLessThan(4);
  expect(existsSync(join(scratch, 'stopped/checkpoints'))).toBe(true);
});
