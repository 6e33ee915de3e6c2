import { describe, expect, it } from 'vitest';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import type { Model } from '../../src/onnx/graph.ts';
import { randomStream } from '../../src/random.ts';
import { AdaptedRuntime } from '../../src/runtime/adaptedRuntime.ts';
import { linearModules } from '../../src/runtime/backbone.ts';
import { naiveGateLosses } from '../../src/runtime/gateLosses.ts';
import { StagedLosses } from '../../src/runtime/stagedLosses.ts';
import { evaluationGraph } from '../../src/runtime/trainingGraph.ts';
import * as strategies from '../../src/strategies.ts';
import { collate } from '../../src/tasks/collate.ts';
import type { Example } from '../../src/tasks/task.ts';
import { assemble, openModel } from '../../src/training/assemble.ts';

const fixture = (path: string) => new URL(`../../fixtures/${path}`, import.meta.url).pathname;

/** A file, and the fused operators that its evaluation graph keeps. */
const files: readonly (readonly [folder: string, file: string, kept: Readonly<Record<string, number>>])[] = [
  ['smollm', 'model_genai', { GroupQueryAttention: 2, SimplifiedLayerNormalization: 5 }],
  [
    'smollm',
    'model_genai_q4',
    { GroupQueryAttention: 2, SimplifiedLayerNormalization: 5, MatMulNBits: 15, GatherBlockQuantized: 1 },
  ],
  ['smollm', 'model_q4', { MatMulNBits: 15 }],
  ['smollm', 'model_q4f16', { MatMulNBits: 15 }],
  ['smollm', 'model_quantized', { MatMulInteger: 15, DynamicQuantizeLinear: 9 }],
  ['smollm', 'decoder_model_merged_quantized', { MatMulInteger: 15, DynamicQuantizeLinear: 9 }],
  ['smollm', 'model_opset23', { Attention: 2, RotaryEmbedding: 4 }],
  ['qwen3', 'model_opset23', { Attention: 2, RotaryEmbedding: 4 }],
  ['gpt2', 'model_optimized', { FastGelu: 2 }],
  ['minilm', 'model_optimized', { MultiHeadAttention: 2, BiasGelu: 2 }],
  ['minilm', 'model_quantized', { MatMulInteger: 12, DynamicQuantizeLinear: 8 }],
];

const open = (folder: string, file: string, modulesToSave: readonly string[] = []) => {
  const encoder = folder === 'minilm';
  const config = resolveRunConfig(
    {
      model: { path: fixture(`backbones/${folder}`), file: `onnx/${file}.onnx` },
      data: { task: encoder ? 'classification' : 'text', train: 'none.jsonl' },
      adapter: { strategy: 'alora', modulesToSave },
      budget: { rank: 2 },
      train: { steps: 100 },
      runtime: { threads: 1 },
      output: 'none',
    },
    { strategies },
  );
  const opened = openModel(config.model);
  const assembly = assemble(opened, config, {
    strategies,
    length: { totalSteps: 100, stepsPerEpoch: 100 },
    classes: encoder ? 3 : undefined,
  });
  // Factors that are zero at the start would hide where adapters stand.
  const random = randomStream(1, 'factors');
  for (const slot of assembly.adapters.slots) {
    const values = assembly.adapters.view('values', slot);
    for (let i = 0; i < values.length; i++) values[i]! += 0.2 * random.normal();
  }
  return assembly;
};

/** Rows of unequal lengths; the last labels of each. */
function batch(kind: Example['kind']) {
  const random = randomStream(7, 'rows');
  const examples = [13, 9, 4].map((length, i): Example => {
    const ids = Array.from({ length }, () => 3 + random.integer(60));
    const targets = kind === 'sequence' ? [i] : ids.map((_, t) => (t > length - 4 ? ids[t]! : -1));
    return { kind, ids, targets, source: { file: 'test', line: i + 1 } };
  });
  return collate(examples, { padId: 1 });
}

function operators({ graph }: Model): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { op } of graph.nodes) counts[op] = (counts[op] ?? 0) + 1;
  return counts;
}

describe('evaluation with the fused operators of the file', () => {
  it.each(files)('%s/%s', async (folder, file, kept) => {
    const assembly = open(folder, file);
    const { adapted, adapters, workspace, backbone, runtime } = assembly;
    expect(operators(evaluationGraph(adapted))).toMatchObject(kept);
    const modules = (model: Model) =>
      linearModules({ ...backbone, model }).map(({ name, in: from, out, role }) => [name, from, out, role]);
    expect(modules(backbone.forward!)).toEqual(modules(backbone.model));
    const inputs = ({ graph }: Model) => graph.inputs.map(({ name, dtype, shape }) => [name, dtype, shape]);
    expect(inputs(backbone.forward!)).toEqual(inputs(backbone.model));

    const plain = new AdaptedRuntime(
      { ...adapted, forward: undefined },
      adapters,
      workspace,
      runtime.options,
    );
    const rows = batch(backbone.kind === 'causal' ? 'token' : 'sequence');
    const expected = (await plain.evaluate(rows)).losses;
    // Sums in another order: 2e-6 nats at most were seen. Activations of 8 bits may round the other way by that.
    const tolerance = kept.MatMulInteger ? 1e-3 : 2e-5;
    (await runtime.evaluate(rows)).losses.forEach((loss, i) => {
      expect(Math.abs(loss - expected[i]!)).toBeLessThan(tolerance);
    });

    // Scoring cuts the same graph at its gates.
    const settings = adapters.modules.map(({ index }) => ({ on: 'all', except: [[index, 0]] }) as const);
    const staged = await StagedLosses.open(runtime);
    const scores = await staged.losses([rows], settings);
    (await naiveGateLosses(runtime, [rows], settings)).forEach((loss, i) => {
      expect(Math.abs(scores[i]! - loss) / loss).toBeLessThan(1e-5);
    });
    await plain.close();
    await assembly.close();
  });

  it.each([
    ['has no fused operators', 'model'],
    ['has only such as are slower fused', 'model_bnb4'],
  ])('is the plain one where the file %s', (_, file) => {
    const assembly = open('smollm', file);
    expect(assembly.backbone.forward).toBeUndefined();
    expect(assembly.adapted.forward).toBeUndefined();
  });

  it('is the plain one where a layer that trains in full has its bias in a fused operator', async () => {
    const assembly = open('minilm', 'model_optimized', ['intermediate.dense']);
    expect(assembly.backbone.forward).toBeDefined();
    expect(assembly.adapted.forward).toBeUndefined();
    await assembly.close();
  });
});
