import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readPeft } from '../../src/adapters/peft.ts';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { writeModel } from '../../src/onnx/encode.ts';
import type { Graph, Value } from '../../src/onnx/graph.ts';
import { prune } from '../../src/passes/prune.ts';
import * as strategies from '../../src/strategies.ts';
import type { StepEvent } from '../../src/training/reporter.ts';
import { trainRun } from '../../src/training/train.ts';
import { configOf, largestDifference } from '../adapters/original.ts';
import { tinyRun } from './runs.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-shared-head-'));
afterAll(() => rmSync(scratch, { recursive: true }));

type Edit = (graph: Graph, constant: (module: string, role: 'weight' | 'bias') => Value) => void;

/** A fixture whose graph was changed. */
function edited(name: string, as: string, edit: Edit): string {
  const folder = join(scratch, as);
  cpSync(`fixtures/models/${name}`, folder, { recursive: true });
  const path = join(folder, 'onnx/model.onnx');
  const model = readModel(path);
  const modules = findLinearModules(model, configOf(folder));
  edit(model.graph, (name, role) => {
    const module = modules.find((candidate) => candidate.name === name)!;
    return role === 'bias' ? module.bias! : module.weight.value;
  });
  model.graph.sort();
  prune(model.graph);
  writeModel(model, path);
  return folder;
}

/** Losses of a few steps that train a head in full, and the head at the end. */
async function trained(model: string, output: string, modulesToSave: readonly string[], task: string) {
  const train = `fixtures/traces/${task}.jsonl`;
  const config = tinyRun(join(scratch, output), {
    model: { path: model },
    data: { task, train, dev: train },
    adapter: { strategy: 'lora', modulesToSave },
    train: { steps: 4, batchSize: 4, learningRate: 2e-2, warmup: 0, evalEvery: 4 },
  });
  const steps: StepEvent[] = [];
  const { dev } = await trainRun(config, {
    strategies,
    reporters: [{ onStep: (event) => steps.push(event) }],
  });
  const { saved } = readPeft(join(config.output, 'adapter'));
  return { losses: [...steps.map(({ loss }) => loss), dev!.last.loss], saved };
}

/** PEFT trains a copy of the head's module, so that it trains as where the file keeps the constants apart. */
describe('a head that trains in full on a constant that others read too', () => {
  const classifier = 'classifier.dense';
  const other = 'roberta.encoder.layer.1.output.dense';
  it.each<[string, string, readonly string[], string, Edit, Edit]>([
    [
      'the token embedding',
      'gpt2',
      ['lm_head'],
      'text',
      (graph, constant) => {
        const table = [...graph.initializers].find((value) => value.name === 'transformer.wte.weight')!;
        const tied = new Builder(graph, '/tied').op('Transpose', [table], { attributes: { perm: [1, 0] } });
        graph.replaceUses(constant('lm_head', 'weight'), tied);
      },
      () => {},
    ],
    [
      'the bias of another layer',
      'roberta',
      ['classifier'],
      'classification',
      (graph, constant) => graph.replaceUses(constant(other, 'bias'), constant(classifier, 'bias')),
      (_, constant) => {
        constant(other, 'bias').initializer = constant(classifier, 'bias').initializer;
      },
    ],
  ])('%s', async (_, name, heads, task, share, apart) => {
    const shared = await trained(edited(name, `${name}-shared`, share), `${name}-s`, heads, task);
    const own = await trained(edited(name, `${name}-apart`, apart), `${name}-a`, heads, task);
    // Products of transposed constants sum in another order.
    expect(largestDifference(shared.losses, own.losses)).toBeLessThan(1e-4);
    expect([...shared.saved.keys()]).toEqual([...own.saved.keys()]);
    for (const [key, tensor] of shared.saved)
      expect(largestDifference(tensor.toFloat32(), own.saved.get(key)!.toFloat32()), key).toBeLessThan(1e-3);
  });
});
