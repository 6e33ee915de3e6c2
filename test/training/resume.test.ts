import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AdapterSet } from '../../src/adapters/adapterSet.ts';
import type { AdapterStrategy } from '../../src/adapters/strategy.ts';
import type { AloraError } from '../../src/errors.ts';
import * as strategies from '../../src/strategies.ts';
import { initialState, restoreCheckpoint, writeCheckpoint } from '../../src/training/checkpoint.ts';
import { claimFolder } from '../../src/training/lock.ts';
import type { MetricsEvent, Reporter } from '../../src/training/reporter.ts';
import { RunFolder } from '../../src/training/runFolder.ts';
import { trainRun } from '../../src/training/train.ts';
import { tinyRun } from './runs.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-resume-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const changes = { adapter: { dropout: 0.1 }, train: { accumulate: 2 } };

/** metrics.jsonl without the clock. */
function metrics(folder: string): MetricsEvent[] {
  const lines = readFileSync(join(folder, 'metrics.jsonl'), 'utf8').trim().split('\n');
  return lines.map((line) => ({ ...JSON.parse(line), ms: undefined }) as MetricsEvent);
}

function weights(folder: string, kind = 'adapter'): Buffer {
  return readFileSync(join(folder, kind, 'adapter_model.safetensors'));
}

/** Aborts after the given step, as Ctrl-C does. */
async function interrupted(folder: string, at: number): Promise<AloraError> {
  const abort = new AbortController();
  const stop: Reporter = { onStep: ({ step }) => step === at && abort.abort() };
  return trainRun(tinyRun(folder, changes), { strategies, reporters: [stop], signal: abort.signal }).then(
    () => expect.unreachable('the run was not interrupted'),
    (error: AloraError) => error,
  );
}

describe('resuming', () => {
  const whole = join(scratch, 'whole');
  beforeAll(async () => {
    await trainRun(tinyRun(whole, changes), { strategies });
  });

  function expectSame(folder: string) {
    expect(metrics(folder)).toEqual(metrics(whole));
    expect(weights(folder)).toEqual(weights(whole));
    expect(weights(folder, 'best')).toEqual(weights(whole, 'best'));
    const result = (path: string) => {
      const {
        seconds: _s,
        secondsAllocating: _a,
        peakMemory: _m,
        ...rest
      } = JSON.parse(readFileSync(join(path, 'result.json'), 'utf8'));
      return rest;
    };
    expect(result(folder)).toEqual(result(whole));
  }

  it('after an interruption is bit-equal to never having stopped', async () => {
    const folder = join(scratch, 'interrupted');
    const error = await interrupted(folder, 7);
    expect(error).toMatchObject({ code: 'INTERRUPTED', exitCode: 130 });
    expect(existsSync(join(folder, 'result.json'))).toBe(false);
    await trainRun(tinyRun(folder, changes), { strategies, resume: true });
    expectSame(folder);
  });

  it('cuts back what came after the checkpoint, a torn last line included', async () => {
    const folder = join(scratch, 'torn');
    await interrupted(folder, 8);
    rmSync(join(folder, 'checkpoints', 'step-000008'), { recursive: true });
    appendFileSync(join(folder, 'metrics.jsonl'), '{"event":"step","step":9,"lo');
    await trainRun(tinyRun(folder, changes), { strategies, resume: true });
    expectSame(folder);
  });

  it.each([
    ['cut short', (file: string) => truncateSync(file, 100)],
    [
      'another than was written',
      (file: string) => {
        const bytes = readFileSync(file);
        bytes[bytes.length >> 1]! ^= 1;
        writeFileSync(file, bytes);
      },
    ],
  ])('falls back to the older checkpoint with a warning when the newest is %s', async (how, damage) => {
    const folder = join(scratch, how);
    await interrupted(folder, 7);
    damage(join(folder, 'checkpoints', 'step-000007', 'arena.bin'));
    const warnings: string[] = [];
    await trainRun(tinyRun(folder, changes), {
      strategies,
      resume: true,
      reporters: [{ onWarning: (message) => warnings.push(message) }],
    });
    expect(warnings.join()).toContain('step-000007');
    expectSame(folder);
  });

  it('finds the only checkpoint where the process died while writing it anew', async () => {
    const folder = join(scratch, 'anew');
    await interrupted(folder, 2);
    const checkpoint = join(folder, 'checkpoints', 'step-000002');
    renameSync(checkpoint, `${checkpoint}.old.tmp`);
    const starts: number[] = [];
    await trainRun(tinyRun(folder, changes), {
      strategies,
      resume: true,
      reporters: [{ onRunStart: ({ startStep }) => starts.push(startStep) }],
    });
    expect(starts).toEqual([2]);
    expectSame(folder);
  });

  it('finds the best adapter where the process died while replacing it', async () => {
    const train = {
      accumulate: 2,
      learningRate: 0.2,
      clip: 0,
      warmup: 0,
      evalEvery: 1,
      schedule: 'constant',
    };
    const run = (folder: string) => tinyRun(folder, { train });
    const [straight, folder] = [join(scratch, 'straight'), join(scratch, 'replaced')];
    await trainRun(run(straight), { strategies });
    // Else the best one would be saved again after resuming.
    expect(weights(straight, 'best')).not.toEqual(weights(straight));
    const abort = new AbortController();
    const stop: Reporter = { onStep: ({ step }) => step === 11 && abort.abort() };
    await trainRun(run(folder), { strategies, reporters: [stop], signal: abort.signal }).catch(() => {});
    renameSync(join(folder, 'best'), join(folder, 'best.old.tmp'));
    await trainRun(run(folder), { strategies, resume: true });
    expect(weights(folder, 'best')).toEqual(weights(straight, 'best'));
    expect(metrics(folder)).toEqual(metrics(straight));
  });

  it('keeps and takes the newest checkpoints, also beyond a million steps', () => {
    const folder = new RunFolder(join(scratch, 'long'));
    const arrays = ['values', 'gradients', 'firstMoments', 'secondMoments'];
    const adapters = {
      ...Object.fromEntries(arrays.map((name) => [name, new Float32Array(1)])),
      steps: new Int32Array(1),
      saveLayout: () => null,
      restoreLayout() {},
    } as unknown as AdapterSet;
    for (const step of [999_800, 1_000_000, 1_000_200])
      writeCheckpoint(folder, { ...initialState, step }, adapters, {});
    expect(readdirSync(folder.file('checkpoints')).sort()).toEqual(['step-1000000', 'step-1000200']);
    const run = { config: tinyRun(folder.path), hashes: {} };
    expect(restoreCheckpoint(folder, adapters, run, () => {})).toEqual({ ...initialState, step: 1_000_200 });
  });

  it('leaves nothing of an attempt without a checkpoint, which may have had another configuration', async () => {
    const folder = join(scratch, 'leftovers');
    cpSync(whole, folder, { recursive: true });
    for (const name of ['result.json', 'checkpoints']) rmSync(join(folder, name), { recursive: true });
    const noDev = { ...changes, data: { dev: undefined }, train: { ...changes.train, steps: 2 } };
    await trainRun(tinyRun(folder, noDev), { strategies, resume: true });
    expect(weights(folder, 'best')).toEqual(weights(folder));
  });

  it('refuses a folder in which a run is going on, and leaves that run alone', async () => {
    const folder = join(scratch, 'busy');
    const second = () => trainRun(tinyRun(folder, changes), { strategies, resume: true });
    let seen: unknown;
    // Step 5 of the first run waits for the second run, so that no machine is fast enough to have ended the first.
    const lora: AdapterStrategy<unknown> = {
      ...strategies.lora,
      scheduler: () => ({
        async afterStep({ step }) {
          if (step === 5) seen = await second().catch((error: AloraError) => error);
        },
        save: () => null,
        restore() {},
      }),
    };
    await trainRun(tinyRun(folder, changes), { strategies: { ...strategies, lora } });
    expect(seen).toMatchObject({ code: 'OUTPUT_IN_USE', exitCode: 7 });
    expectSame(folder);
  });

  it('refuses such a folder before it opens the model', async () => {
    const folder = join(scratch, 'held');
    const run = tinyRun(folder, { ...changes, model: { path: join(scratch, 'no-model') } });
    const release = await claimFolder(folder);
    await expect(trainRun(run, { strategies })).rejects.toMatchObject({ code: 'OUTPUT_IN_USE' });
    release();
    await expect(trainRun(run, { strategies })).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' });
  });

  it('refuses to start over silently when no checkpoint can be read', async () => {
    const folder = join(scratch, 'unreadable');
    await interrupted(folder, 7);
    for (const name of readdirSync(join(folder, 'checkpoints')))
      writeFileSync(join(folder, 'checkpoints', name, 'state.json'), 'nonsense');
    const before = readFileSync(join(folder, 'metrics.jsonl'));
    await expect(trainRun(tinyRun(folder, changes), { strategies, resume: true })).rejects.toMatchObject({
      code: 'CHECKPOINT_UNREADABLE',
      exitCode: 7,
    });
    expect(readFileSync(join(folder, 'metrics.jsonl'))).toEqual(before);
  });

  it('refuses another configuration and names the keys that differ', async () => {
    const folder = join(scratch, 'other');
    await interrupted(folder, 4);
    const other = tinyRun(folder, { ...changes, train: { ...changes.train, learningRate: 1e-2 } });
    const refusal = {
      code: 'CHECKPOINT_OTHER_RUN',
      exitCode: 3,
      details: {
        got: 'train.learningRate: 0.01',
        allowed: `train.learningRate: ${tinyRun(folder, changes).train.learningRate}`,
      },
    };
    await expect(trainRun(other, { strategies, resume: true })).rejects.toMatchObject(refusal);
    await trainRun(tinyRun(folder, changes), { strategies, resume: true });
    // A finished run is not taken for one with other settings either.
    await expect(trainRun(other, { strategies, resume: true })).rejects.toMatchObject(refusal);
  });

  it('refuses other weights, also where they lie beside the .onnx file', async () => {
    const folder = join(scratch, 'weights');
    const model = join(scratch, 'phi3');
    cpSync('fixtures/models/phi3', model, { recursive: true });
    const run = tinyRun(folder, { ...changes, model: { path: model } });
    const abort = new AbortController();
    const stop: Reporter = { onStep: ({ step }) => step === 4 && abort.abort() };
    await trainRun(run, { strategies, reporters: [stop], signal: abort.signal }).catch(() => {});
    const data = join(model, 'onnx/model.onnx_data');
    const bytes = readFileSync(data);
    bytes[bytes.length - 3]! ^= 1;
    writeFileSync(data, bytes);
    await expect(trainRun(run, { strategies, resume: true })).rejects.toMatchObject({
      code: 'CHECKPOINT_OTHER_RUN',
      exitCode: 3,
    });
  });

  it('starts at step 0 in a missing folder and changes nothing in a finished run', async () => {
    const folder = join(scratch, 'fresh');
    await trainRun(tinyRun(folder, changes), { strategies, resume: true });
    expectSame(folder);
    const before = readdirSync(folder, { recursive: true }).map((name) => [
      name,
      statOf(folder, String(name)),
    ]);
    await trainRun(tinyRun(folder, changes), { strategies, resume: true });
    expect(
      readdirSync(folder, { recursive: true }).map((name) => [name, statOf(folder, String(name))]),
    ).toEqual(before);
  });

  it('keeps the newest two checkpoints', () => {
    expect(readdirSync(join(whole, 'checkpoints')).sort()).toEqual(['step-000006', 'step-000009']);
  });

  it('leaves a used folder alone without --resume or --force, and force replaces only what a run writes', async () => {
    const folder = join(scratch, 'used');
    cpSync(whole, folder, { recursive: true });
    writeFileSync(join(folder, 'notes.txt'), 'mine');
    await expect(trainRun(tinyRun(folder, changes), { strategies })).rejects.toMatchObject({
      code: 'OUTPUT_EXISTS',
      exitCode: 7,
    });
    await trainRun(tinyRun(folder, changes), { strategies, force: true });
    expect(readFileSync(join(folder, 'notes.txt'), 'utf8')).toBe('mine');
    expectSame(folder);
  });
});

function statOf(folder: string, name: string): string {
  try {
    return readFileSync(join(folder, name)).toString('base64');
  } catch {
    return 'folder';
  }
}
