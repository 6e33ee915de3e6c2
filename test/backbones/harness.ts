import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import type { Tensor } from '../../src/onnx/tensor.ts';
import { inputNames, outputNames } from '../../src/runtime/adaptedModel.ts';
import { parameterFeeds, type TokenBatch } from '../../src/runtime/feeds.ts';
import { openSession } from '../../src/runtime/session.ts';
import { gradientOutput, stepGraph } from '../../src/runtime/trainingGraph.ts';
import * as strategies from '../../src/strategies.ts';
import { adamWStep, clipGradients, gradientNorm } from '../../src/training/adamw.ts';
import { type Assembly, assemble, openModel } from '../../src/training/assemble.ts';
import type { Batch, Nested, Reference } from './reference.ts';

/** Differences from PyTorch + PEFT. */
export interface Errors {
  /** Largest |loss - reference| / reference over the steps. */
  readonly loss: number;
  /** Largest |gradient - reference| / |reference|, Euclidean norms, over the trained tensors of step 1. */
  readonly gradient: number;
}

function shapeOf(value: Nested | number): number[] {
  return typeof value === 'number' ? [] : [value.length, ...shapeOf(value[0]!)];
}

function flatten(value: Nested | number): number[] {
  return typeof value === 'number' ? [value] : value.flatMap(flatten);
}

const int64 = (values: readonly number[]) => BigInt64Array.from(values, BigInt);

/** Labelled places of the flattened labels and what to predict there. */
function labelled(labels: Nested) {
  const flat = flatten(labels);
  const rows = flat.flatMap((label, i) => (label >= 0 ? [i] : []));
  return { rows: int64(rows), targets: int64(rows.map((i) => flat[i]!)) };
}

/** Inputs that are not tokens. */
const featureNames = ['input_features', 'pixel_values'];

function tokenBatch({ inputs, labels }: Batch): TokenBatch {
  const features = Object.fromEntries(
    featureNames.flatMap((name) => {
      const value = inputs[name];
      return value ? [[name, { data: Float32Array.from(flatten(value)), dims: shapeOf(value) }]] : [];
    }),
  );
  // Of sound and images the labels alone say how many rows and positions there are.
  const [size, length = 1] = shapeOf(inputs.input_ids ?? labels) as [number, number?];
  const values = (name: string) => inputs[name] && int64(flatten(inputs[name]));
  const count = size * length;
  return {
    size,
    length,
    inputIds: values('input_ids') ?? new BigInt64Array(count),
    attentionMask: values('attention_mask') ?? new BigInt64Array(count).fill(1n),
    positionIds: values('position_ids') ?? int64(Array.from({ length: count }, (_, i) => i % length)),
    tokenTypeIds: values('token_type_ids'),
    features,
    ...labelled(labels),
  };
}

type Step = (batch: Batch) => Promise<Float32Array>;

function trainerStep({ runtime }: Assembly): Step {
  return async (batch) => {
    const tokens = tokenBatch(batch);
    return runtime.step(tokens, { loss: 1 / tokens.rows.length, penalty: 1 });
  };
}

/** Steps on the plain graph, for batches that give the decoder its tokens themselves. */
function graphStep(assembly: Assembly): Step {
  const model = stepGraph(assembly.adapted);
  const names = new Set(model.graph.inputs.map(({ name }) => name));
  const opened = openSession(assembly.workspace.write('direct', model), { device: 'cpu', threads: 1 });
  return async ({ inputs, labels }) => {
    const session = await opened;
    const { rows, targets } = labelled(labels);
    const feeds: Record<string, ort.Tensor> = {
      ...parameterFeeds(assembly.adapters, names),
      [inputNames.rows]: new ort.Tensor('int64', rows, [rows.length]),
      [inputNames.targets]: new ort.Tensor('int64', targets, [rows.length]),
      [inputNames.lossScale]: new ort.Tensor('float32', Float32Array.of(1 / rows.length), []),
    };
    for (const [name, value] of Object.entries(inputs))
      if (names.has(name)) feeds[name] = new ort.Tensor('int64', int64(flatten(value)), shapeOf(value));
    const outputs = await session.run(feeds);
    for (const slot of assembly.adapters.slots)
      if (slot.spec.trained)
        assembly.adapters
          .view('gradients', slot)
          .set(outputs[gradientOutput(slot.module, slot.spec.role)]!.data as Float32Array);
    return outputs[outputNames.losses]!.data as Float32Array;
  };
}

/** Opens a model file with the adapter of a reference. */
export function openReference(
  { model, adapter, kind, gradients }: Pick<Reference, 'model' | 'adapter' | 'kind' | 'gradients'>,
  file: string,
  splitFused = false,
): Assembly {
  const heads = [...gradients.keys()].flatMap((name) =>
    kind === 'encoder' || name.includes('lora_')
      ? []
      : [name.replace(/^base_model\.model\.(.*)\.\w+$/, '$1')],
  );
  const config = resolveRunConfig(
    {
      model: { path: model, file, splitFused },
      data: { task: kind === 'causal' ? 'text' : 'classification', train: 'unread.jsonl', maxLength: 16 },
      adapter: { strategy: 'lora', initFrom: adapter, modulesToSave: [...new Set(heads)] },
      train: { steps: 5 },
      runtime: { threads: 1 },
      output: join(tmpdir(), 'unwritten'),
    },
    { strategies },
  );
  return assemble(openModel(config.model), config, {
    strategies,
    length: { totalSteps: 5, stepsPerEpoch: 5 },
    classes: kind === 'encoder' ? 3 : undefined,
  });
}

/** Trains a file for the steps of a reference; compares every loss and the first gradients. */
export async function compare(reference: Reference, file: string, splitFused = false): Promise<Errors> {
  const assembly = openReference(reference, file, splitFused);
  try {
    const { adapters } = assembly;
    const step = (reference.kind === 'seq2seq' ? graphStep : trainerStep)(assembly);
    let loss = 0;
    let gradient = 0;
    for (const [i, batch] of reference.batches.entries()) {
      adapters.gradients.fill(0);
      const losses = await step(batch);
      const mean = losses.reduce((sum, value) => sum + value, 0) / losses.length;
      loss = worse(loss, Math.abs(mean - reference.losses[i]!) / reference.losses[i]!);
      if (i === 0) gradient = gradientError(assembly, reference.gradients);
      clipGradients(adapters, gradientNorm(adapters), reference.clip);
      const { weightDecay } = reference;
      adamWStep(adapters, 1, { learningRate: reference.rates[i]!, weightDecay, groups: {} });
    }
    return { loss, gradient };
  } finally {
    await assembly.close();
  }
}

/** Math.max that keeps NaN. */
const worse = (a: number, b: number) => (Number.isNaN(b) || b > a ? b : a);

function gradientError({ adapters, adapted }: Assembly, wanted: ReadonlyMap<string, Tensor>): number {
  const layouts = new Map(adapted.heads.map(({ module, layout }) => [module, layout]));
  const whole = Math.hypot(...[...wanted.values()].flatMap((tensor) => [...tensor.toFloat32()]));
  let worst = 0;
  let seen = 0;
  for (const slot of adapters.slots) {
    if (!slot.spec.trained) continue;
    const { module, spec, rows } = slot;
    const suffix = /^lora/.test(spec.role) ? `${spec.role}.weight` : spec.role;
    const reference = wanted.get(`base_model.model.${module.name}.${suffix}`);
    if (!reference) throw new Error(`the reference has no ${module.name}.${suffix}`);
    seen++;
    const theirs = reference.toFloat32();
    // PEFT keeps lora_B as [out, rank] and heads as [out, in].
    const turned = spec.role === 'lora_B' || (spec.role === 'weight' && layouts.get(module) === 'in-out');
    let difference = 0;
    let norm = 0;
    adapters.view('gradients', slot).forEach((value, i) => {
      const at = turned ? (i % spec.width) * rows + Math.floor(i / spec.width) : i;
      difference += (value - theirs[at]!) ** 2;
      norm += theirs[at]! ** 2;
    });
    // Rounding is all that stands in the gradient of a bias that shifts every logit of a softmax (a span head's).
    const measure = norm < (1e-6 * whole) ** 2 ? whole ** 2 : norm;
    worst = worse(worst, Math.sqrt(difference / measure));
  }
  if (seen !== wanted.size) throw new Error(`${seen} gradients, ${wanted.size} in the reference`);
  return worst;
}
