import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { cosine } from '../../bench/cosine.ts';
import { naiveGateLosses } from '../../src/runtime/gateLosses.ts';
import { StagedLosses } from '../../src/runtime/stagedLosses.ts';
import * as strategies from '../../src/strategies.ts';
import { type Assembly, assemble, openModel } from '../../src/training/assemble.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';
import { evaluationBatches } from '../../src/training/evaluation.ts';
import { prepareRun } from '../../src/training/prepareRun.ts';
import { trainRun } from '../../src/training/train.ts';
import { tinyRun } from '../training/runs.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-int8-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const presidents = new URL('../../fixtures/models/presidents', import.meta.url).pathname;
const path = (name: string) => ({ path: new URL(`../../fixtures/models/${name}`, import.meta.url).pathname });

/** A run of the embedded model, which is pretrained: its activations and gradients are those of a real model. */
const runOf = (compute: 'float32' | 'int8', changes: Record<string, unknown> = {}) =>
  tinyRun(join(scratch, compute), {
    model: { path: presidents, compute },
    train: {
      steps: 24,
      batchSize: 4,
      learningRate: 1e-2,
      evalEvery: 8,
      checkpointEvery: 0,
      sample: false,
      ...changes,
    },
  });

/** Every parameter away from its start, where half of the gradients are zero. */
function move({ adapters }: Pick<Assembly, 'adapters'>): void {
  adapters.slots.forEach((slot, s) => {
    if (slot.spec.role === 'lora_B')
      adapters.view('values', slot).forEach((_, i, values) => {
        values[i] = 0.05 * Math.sin(i + s);
      });
  });
}

/** Losses of the training rows, and the gradient of each factor of each module. */
async function step(compute: 'float32' | 'int8', recompute = false) {
  const run = await prepareRun(runOf(compute, { recompute }), strategies);
  move(run);
  const [batch] = evaluationBatches(run.data.train, {
    batchSize: 16,
    padId: run.data.padId,
    tokensOfRun: 1e9,
  });
  const losses = await run.runtime.step(batch!, { loss: 1 / batch!.labels, penalty: 0 });
  await run.close();
  const { adapters } = run;
  const gradients = adapters.slots
    .filter(({ spec }) => spec.trained)
    .map((slot) => ({
      name: `${slot.module.name}.${slot.spec.role}`,
      gradient: adapters.view('gradients', slot),
    }));
  return { loss: losses.reduce((sum, value) => sum + value, 0) / losses.length, gradients };
}

describe('model.compute: int8', () => {
  it.each([false, true])(
    'gives the losses and gradients of float32 nearly (recompute: %s)',
    async (recompute) => {
      const plain = await step('float32', recompute);
      const rounded = await step('int8', recompute);
      expect(rounded.loss).not.toBe(plain.loss);
      expect(Math.abs(rounded.loss / plain.loss - 1)).toBeLessThan(2e-3);
      // Each of some 15 roundings on the way adds noise of about 1/250 of its tensor: sqrt(15) / 250 is an angle of
      // cosine 0.9999; what passes the attention's softmax adds more. One scale a tensor gives 0.96 here.
      for (const [i, { name, gradient }] of plain.gradients.entries()) {
        const similarity = cosine(gradient, rounded.gradients[i]!.gradient);
        expect(similarity, name).toBeGreaterThan(0.985);
      }
    },
  );

  it('trains, evaluates and scores what it trained', async () => {
    const [plain, rounded] = [
      await trainRun(runOf('float32'), { strategies }),
      await trainRun(runOf('int8'), { strategies }),
    ];
    const [before, after] = [plain.dev!.before.loss, plain.dev!.last.loss];
    expect(before - after).toBeGreaterThan(0.2);
    // The same learning, to a twentieth of what is learned.
    expect(Math.abs(rounded.dev!.last.loss - after)).toBeLessThan(0.05 * (before - after));

    const adapter = join(runOf('int8').output, 'adapter');
    const again = await evaluateRun(runOf('int8'), { adapter });
    expect(again.loss / rounded.dev!.last.loss).toBeCloseTo(1, 4);
    // The adapter is one of float32 weights: it says the same of the model as it is.
    expect((await evaluateRun(runOf('float32'), { adapter })).loss / again.loss).toBeCloseTo(1, 2);
  });

  it('scores stage by stage as by whole passes', async () => {
    const run = await prepareRun(runOf('int8'), strategies);
    move(run);
    const batches = evaluationBatches(run.data.dev.slice(0, 4), {
      batchSize: 4,
      padId: run.data.padId,
      tokensOfRun: 1e9,
    });
    const settings = [0, 9, 27].map((module) => ({ on: 'all', except: [[module, 0]] }) as const);
    const naive = await naiveGateLosses(run.runtime, batches, settings);
    const stages = await StagedLosses.open(run.runtime);
    const fast = await stages.losses(batches, settings);
    await run.close();
    // The same integers; the largest magnitude of a row may differ in its last bit.
    naive.forEach((loss, i) => {
      expect(fast[i]! / loss).toBeCloseTo(1, 4);
    });
  });

  it('refuses a model without a float weight that is large enough', async () => {
    const config = tinyRun(join(scratch, 'nothing'), { model: { ...path('llama'), compute: 'int8' } });
    const run = assemble(openModel(config.model), config, {
      strategies,
      length: { totalSteps: 9, stepsPerEpoch: 9 },
    });
    await expect(run.runtime.open()).rejects.toThrow(expect.objectContaining({ code: 'COMPUTE_NOTHING' }));
    await run.close();
  });
});
