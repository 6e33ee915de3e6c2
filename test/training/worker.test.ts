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
});

/** Steps of a few hundred milliseconds of one core. */
const run = (name: string, steps = 4): RunConfigInput => ({
  model: { path: join(root, 'fixtures/models/presidents') },
  data: { task: 'text', train: join(scratch, 'train.jsonl'), maxLength: 128 },
  adapter: { strategy: 'lora' },
  budget: { rank: 2 },
  train: { steps, batchSize: 16, learningRate: 1e-3, evalEvery: 0 },
  runtime: { threads: 1 },
  output: join(scratch, name),
});

/** A timer of the host that wants to tick every millisecond: how often it has. */
function ticking() {
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  return { ticks: () => ticks, stop: () => clearInterval(timer) };
}

/** Ticks of each step but the first. */
const perStep = (ticks: readonly number[]) => ticks.slice(1).map((count, i) => count - ticks[i]!);

/**
 * A timer ticks once a pass of the event loop, and the thread that trains makes a few passes a step (around each call of
 * ONNX Runtime, which it has to wait for), however long they take. That is a number of passes, not of milliseconds.
 */
const passesOfAStep = 5;

interface StepMessage {
  readonly step: number;
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
    const { ticks, stop } = ticking();
    const seen: number[] = [];
    await startWorker(run('in-a-worker'), () => seen.push(ticks()));
    stop();
    expect(seen).toHaveLength(4);
    expect(existsSync(join(scratch, 'in-a-worker/result.json'))).toBe(true);
    expect(Math.max(...perStep(seen))).toBeGreaterThan(passesOfAStep);
  });

  it('is free between steps where the same thread trains, and only there', async () => {
    const { ticks, stop } = ticking();
    const seen: number[] = [];
    await train(run('here'), { reporters: [{ onStep: () => seen.push(ticks()) }] });
    stop();
    expect(Math.min(...perStep(seen))).toBeGreaterThan(0);
    expect(Math.max(...perStep(seen))).toBeLessThanOrEqual(passesOfAStep);
  });
});

it('a message stops the worker after its step, with a checkpoint', async () => {
  const steps: number[] = [];
  // Hours of steps: the message is in time.
  const stopped = startWorker(run('stopped', 100_000), ({ step }, worker) => {
    steps.push(step);
    worker.postMessage('stop');
  });
  await expect(stopped).rejects.toMatchObject({ code: 'INTERRUPTED' });
  expect(steps.length).toBeLessThan(100_000);
  expect(existsSync(join(scratch, 'stopped/checkpoints'))).toBe(true);
});
