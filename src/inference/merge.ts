import { rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type MergeResult, mergeAdapter } from '../adapters/merge.ts';
import type { ModelConfig } from '../adapters/module.ts';
import { givesTokens, poolingFor } from '../adapters/newClassifier.ts';
import { readPeft } from '../adapters/peft.ts';
import type { RunConfig } from '../config/schema.ts';
import { AloraError } from '../errors.ts';
import { readModel } from '../onnx/decode.ts';
import type { Graph } from '../onnx/graph.ts';
import type { Pooling } from '../passes/pooling.ts';
import { randomStream } from '../random.ts';
import { type BackboneKind, rowsOfExample } from '../runtime/backbone.ts';
import { localModel } from '../runtime/hub.ts';
import type { RuntimeOptions } from '../runtime/session.ts';
import type { OpenedModel } from '../training/assemble.ts';
import { openModel } from '../training/assemble.ts';
import { contextOf } from '../training/data.ts';
import { evaluateRun } from '../training/evaluate.ts';
import { openAdapted } from '../training/openAdapted.ts';

/** What `merge` folds into what. */
export interface MergeModelOptions extends Partial<RuntimeOptions> {
  /** Adapter folder in PEFT format. */
  readonly adapter: string;
  /** Directory of the model that the adapter was trained on. */
  readonly model: string;
  /** New directory for the merged model. */
  readonly out: string;
  /** As in MergeOptions. */
  readonly pooling?: 'cls' | 'mean';
  /** As in MergeOptions; the difference to model and adapter is then measured, not bounded. */
  readonly requantise?: boolean;
  /** A run whose dev rows tell what requantising costs: losses of model + adapter and of each requantised file. */
  readonly data?: RunConfig;
}

/** What merging made, and how it was verified. */
export interface MergeModelResult extends MergeResult {
  /** For each merged file, the largest difference of logits between model + adapter and the merged model. */
  readonly verification: readonly {
    readonly file: string;
    readonly maxDelta: number;
    readonly largestLogit: number;
    /** What the file rounds, and the difference comes from; absent in float32, where only sums are reordered. */
    readonly rounded?: Rounded;
  }[];
  /** With `data`, for each requantised file: dev losses of the base, of base + adapter, and of the merged file. */
  readonly devLoss: readonly {
    readonly file: string;
    readonly base: number;
    readonly adapted: number;
    readonly merged: number;
  }[];
}

/** What a file keeps in less than float32, 4- and 8-bit weights aside: those stay as they are. */
export type Rounded = '16-bit weights' | '8-bit activations';

/** Rows and tokens of the probe inputs. */
const probe = { size: 4, length: 32, seed: 20240325 };

/**
 * Folds an adapter into a model directory (see mergeAdapter) and proves it: every merged file is run on probe
 * inputs beside the original with the adapter at its side. Errors: MERGE_MISMATCH, and then nothing is left.
 */
export async function mergeModel(options: MergeModelOptions): Promise<MergeModelResult> {
  const model = await localModel(options.model);
  const adapter = readPeft(options.adapter);
  const result = mergeAdapter(adapter, model, options.out, options);
  const verification = [];
  const devLoss: MergeModelResult['devLoss'][number][] = [];
  try {
    const changed = [...result.merged, ...result.branched, ...result.requantised].map(({ file }) => file);
    const rounded = new Set(result.requantised.map(({ file }) => file));
    for (const file of new Set([...changed, ...(result.classifier?.files ?? [])])) {
      // The encoder's half of an encoder-decoder is run along with the other half.
      if (/^encoder_model/.test(basename(file))) continue;
      const before = await probeLogits(join(model, file), options.adapter, {
        ...options,
        classes: result.classifier?.classes,
        pooling: options.pooling ?? adapter.classifier?.pooling,
      });
      const after = await probeLogits(join(options.out, file), undefined, options);
      const maxDelta = largest(before.logits.map((value, i) => value - after.logits[i]!));
      const largestLogit = largest(before.logits);
      // float16 and bfloat16 weights round the update to 11 or 8 bits, and activations that are rounded to 8 bits
      // turn a reordered sum into a step of 1/255 here and there; float32 only reorders sums.
      const tolerance = (before.rounded ? 3e-2 : 1e-4) * Math.max(1, largestLogit);
      if (!(maxDelta <= tolerance) && !rounded.has(file))
        throw new AloraError('model', 'MERGE_MISMATCH', 'The merged model differs from model and adapter', {
          where: file,
          got: `max |delta logit| ${maxDelta}`,
          allowed: `at most ${tolerance}`,
          fix: 'Serve the adapter beside the model instead, and report this.',
        });
      verification.push({ file, maxDelta, largestLogit, ...(before.rounded && { rounded: before.rounded }) });
    }
    for (const { file } of options.data ? result.requantised : []) {
      if (/^encoder_model/.test(basename(file))) continue;
      devLoss.push({ file, ...(await devLosses(options.data!, model, file, options)) });
    }
  } catch (error) {
    rmSync(options.out, { recursive: true, force: true });
    throw error;
  }
  return { ...result, verification, devLoss };
}

async function devLosses(
  data: RunConfig,
  model: string,
  file: string,
  { adapter, out }: MergeModelOptions,
): Promise<{ base: number; adapted: number; merged: number }> {
  const loss = async (path: string, beside?: string) => {
    const config = { ...data, model: { ...data.model, path, file } };
    return (await evaluateRun(config, { adapter: beside, generated: false })).loss;
  };
  return { base: await loss(model), adapted: await loss(model, adapter), merged: await loss(out) };
}

function largest(values: Float32Array): number {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return values.some(Number.isNaN) ? Number.NaN : most;
}

interface ProbeOptions extends Partial<RuntimeOptions> {
  /** Of a new classifier. */
  readonly classes?: number;
  readonly pooling?: Pooling;
}

async function probeLogits(
  path: string,
  adapter: string | undefined,
  options: ProbeOptions,
): Promise<{ logits: Float32Array; rounded: Rounded | undefined }> {
  const opened = openModel({ path });
  try {
    const { backbone } = opened;
    const output = backbone.model.graph.findOutput(backbone.output)!;
    const { classes } = options;
    const pooling = poolingFor(output, options.pooling);
    const isNew = adapter !== undefined && classes !== undefined;
    const { runtime } = openAdapted(opened, {
      device: options.device ?? 'cpu',
      threads: options.threads ?? 0,
      adapter,
      classifier: isNew ? { classes, pooling } : undefined,
    });
    const kind = isNew && givesTokens(output, pooling) ? 'tag' : backbone.kind;
    const logits = await runtime.logits(probeBatch(opened, kind)).finally(() => runtime.close());
    return { logits, rounded: roundedIn(path) };
  } finally {
    opened.workspace.close();
  }
}

function roundedIn(path: string): Rounded | undefined {
  const { graph } = readModel(path);
  const types = [...graph.initializers].map((value) => value.initializer!.dtype);
  const rounds = ({ nodes }: Graph): boolean =>
    nodes.some((node) => node.op.startsWith('DynamicQuantize') || node.subgraphs().some(rounds));
  if (types.some((dtype) => dtype === 'float16' || dtype === 'bfloat16')) return '16-bit weights';
  return rounds(graph) ? '8-bit activations' : undefined;
}

/** Random tokens, the same for both models; every position (or row) is read. */
function probeBatch({ backbone, directory }: OpenedModel, kind: BackboneKind) {
  const { size, seed } = probe;
  const length = Math.min(probe.length, contextOf(directory.config) ?? probe.length);
  const random = randomStream(seed, 'probe');
  const vocabulary = Number(directory.config.vocab_size ?? 100);
  const count = size * length;
  const rows = size * rowsOfExample(kind, length);
  // Classifiers read rows of different lengths: pooling leaves padding out.
  const padding = (i: number) => (kind === 'causal' ? 0 : (3 * Math.floor(i / length)) % length);
  return {
    size,
    length,
    features: probeFeatures(backbone.model.graph, directory.config, random),
    inputIds: BigInt64Array.from({ length: count }, () => BigInt(random.integer(vocabulary))),
    attentionMask: BigInt64Array.from({ length: count }, (_, i) =>
      i % length < length - padding(i) ? 1n : 0n,
    ),
    positionIds: BigInt64Array.from({ length: count }, (_, i) => BigInt(i % length)),
    rows: BigInt64Array.from({ length: rows }, (_, i) => BigInt(i)),
    targets: new BigInt64Array(rows),
  };
}

/** Random sound, for a graph that hears. */
function probeFeatures(graph: Graph, config: ModelConfig, random: { uniform(): number }) {
  const input = graph.findInput('input_features');
  if (!input) return undefined;
  const lengths = [probe.size, Number(config.num_mel_bins), 2 * Number(config.max_source_positions)];
  const dims = lengths.map((length, axis) => {
    const dim = axis > 0 ? input.shape?.[axis] : undefined;
    return typeof dim === 'number' ? dim : length;
  });
  const count = dims.reduce((product, dim) => product * dim, 1);
  return { [input.name]: { data: Float32Array.from({ length: count }, () => random.uniform()), dims } };
}
