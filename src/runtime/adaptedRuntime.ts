import type * as ort from 'onnxruntime-node';
import type { AdapterSet } from '../adapters/adapterSet.ts';
import { AloraError } from '../errors.ts';
import type { Model } from '../onnx/graph.ts';
import { suitDevice } from '../passes/suitDevice.ts';
import { type Compute, openInt8, requireInt8, type ToInt8 } from './compute.ts';
import { type Dropout, Feeder, type GateReader, type TokenBatch } from './feeds.ts';
import { worthPacking } from './prepacking.ts';
import { openSession, type RuntimeOptions, runSession } from './session.ts';
import {
  type AdaptedModel,
  evaluationGraph,
  gateGradientGraph,
  gradientOutput,
  inputNames,
  outputNames,
  partPasses,
  stepGraph,
} from './trainingGraph.ts';
import type { Workspace } from './workspace.ts';

/** Losses and predictions of the labelled tokens of one batch. */
export interface BatchLosses {
  /** float32 [n], nats. */
  readonly losses: Float32Array;
  /** int64 [n]. */
  readonly predictions: BigInt64Array;
  /** float32 [n * V], where they were asked for. */
  readonly logits?: Float32Array;
}

/** float64 sum of float32 losses. */
export function sum(values: Float32Array): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i]!;
  return total;
}

/** Off where the rank is dead, else as trained: the gates of everything but training steps. */
export function liveGates(adapters: AdapterSet): GateReader {
  return (index, gate) => {
    const live = adapters.live(adapters.modules[index]!);
    return live.every(Boolean) ? gate : gate.map((value, i) => (live[i] ? value : 0));
  };
}

type GraphName = 'step' | 'evaluation' | 'gateGradients';

interface WrittenGraph {
  readonly path: string;
  readonly prepack: boolean;
  readonly feeder: Feeder;
}

interface OpenGraph {
  readonly session: ort.InferenceSession;
  readonly feeder: Feeder;
}

export interface AdaptedRuntimeOptions extends RuntimeOptions {
  /** Training steps compute activations again instead of keeping them. */
  readonly recompute?: boolean;
  /** How products with frozen weights are computed, in every session. Default float32. */
  readonly compute?: Compute;
}

/**
 * The sessions over one adapted model: training step, evaluation, gate gradients. Each graph is written at its first
 * use; all map the same weight file. Ranks, gates and parameters are inputs, so none is ever rebuilt. Evaluation and
 * gate gradients take turns: each session keeps the memory of its activations, so one of them is open at a time.
 */
export class AdaptedRuntime {
  private written = new Map<GraphName, Promise<WrittenGraph>>();
  private sessions = new Map<GraphName, Promise<ort.InferenceSession>>();
  private toInt8: ToInt8 | undefined;
  constructor(
    readonly adapted: AdaptedModel,
    readonly adapters: AdapterSet,
    readonly workspace: Workspace,
    readonly options: AdaptedRuntimeOptions,
    /** The same model with dropout, where the training step has it. */
    private readonly trained: AdaptedModel = adapted,
  ) {
    if (options.compute === 'int8') this.toInt8 = openInt8(workspace, adapted.outputWeights);
  }

  /**
   * What a run costs beside its tokens, in tokens, for dealing rows out to runs (see lengthParts). On a CPU products
   * are saturated by few tokens, and what remains is reading the weights; a GPU needs all it can get at once, and a
   * graph of fixed lengths takes full batches only.
   */
  get tokensOfRun(): number {
    const fixed = this.adapted.model.graph
      .findInput('input_ids')
      ?.shape?.some((dim) => typeof dim === 'number');
    return this.options.device === 'cpu' && !fixed ? 64 : 1e9;
  }

  /** The same sessions over other numbers and ranks, such as those of the best adapter. */
  over(adapters: AdapterSet): AdaptedRuntime {
    const twin = new AdaptedRuntime(this.adapted, adapters, this.workspace, this.options, this.trained);
    twin.written = this.written;
    twin.sessions = this.sessions;
    twin.toInt8 = this.toInt8;
    return twin;
  }

  /** Opens the sessions that training needs, so that their errors come before the first step. */
  async open(): Promise<void> {
    await this.graph('step');
    await this.graph('evaluation');
  }

  /**
   * Runs forward and backward and adds the gradients of scale * (sum of losses) + penaltyScale * penalty to
   * `adapters.gradients`. Returns the losses of the labelled tokens: float32 [n], nats.
   */
  async step(
    batch: TokenBatch,
    scale: { readonly loss: number; readonly penalty: number },
    dropout?: Dropout,
  ): Promise<Float32Array> {
    const { session, feeder } = await this.graph('step');
    const masks =
      dropout && dropout.probability > 0 ? feeder.dropout(this.adapters.modules, batch, dropout) : {};
    const outputs = await runSession(session, 'training', {
      ...feeder.batch(batch, {
        [inputNames.lossScale]: scale.loss,
        [inputNames.penaltyScale]: scale.penalty,
      }),
      ...feeder.parameters(this.adapters),
      ...masks,
    });
    for (const slot of this.adapters.slots) {
      if (!slot.spec.trained) continue;
      const gradient = outputs[gradientOutput(slot.module, slot.spec.role)]!.data as Float32Array;
      const target = this.adapters.view('gradients', slot);
      for (let i = 0; i < target.length; i++) target[i]! += gradient[i]!;
    }
    return outputs[outputNames.losses]!.data as Float32Array;
  }

  /** Losses at the labelled tokens; `gates` replaces the values of the gates. */
  async evaluate(
    batch: TokenBatch,
    gates: GateReader = liveGates(this.adapters),
    { logits = false }: { readonly logits?: boolean } = {},
  ): Promise<BatchLosses> {
    const { session, feeder } = await this.graph('evaluation');
    const feeds = { ...feeder.batch(batch), ...feeder.parameters(this.adapters, gates) };
    const fetches = [outputNames.losses, outputNames.predictions, ...(logits ? [outputNames.rowLogits] : [])];
    const outputs = await runSession(session, 'evaluation', feeds, fetches);
    return {
      losses: outputs[outputNames.losses]!.data as Float32Array,
      predictions: outputs[outputNames.predictions]!.data as BigInt64Array,
      logits: outputs[outputNames.rowLogits]?.data as Float32Array | undefined,
    };
  }

  /** Logits at the batch's rows, float32 [n * V]. */
  async logits(batch: TokenBatch): Promise<Float32Array> {
    const { session, feeder } = await this.graph('evaluation');
    const feeds = { ...feeder.batch(batch), ...feeder.parameters(this.adapters, liveGates(this.adapters)) };
    const outputs = await runSession(session, 'evaluation', feeds, [outputNames.rowLogits]);
    return outputs[outputNames.rowLogits]!.data as Float32Array;
  }

  /** Sum of losses, and scale * d(sum)/d(gate) by module index. */
  async gateGradients(batch: TokenBatch, scale: number, gates: GateReader): Promise<Float32Array[]> {
    const { session, feeder } = await this.graph('gateGradients');
    const outputs = await runSession(session, 'gate gradient', {
      ...feeder.batch(batch, { [inputNames.lossScale]: scale }),
      ...feeder.parameters(this.adapters, gates),
    });
    return this.adapters.modules.map(
      (module) => outputs[gradientOutput(module, 'gate')]!.data as Float32Array,
    );
  }

  /** Writes a graph of the adapted model so that it computes as the others do; the path is for openSession. */
  async write(name: string, model: Model): Promise<string> {
    const products = await this.toInt8?.(model);
    if (products !== undefined && name in builders) requireInt8(products);
    return this.workspace.write(name, model);
  }

  /** Closes the sessions beside the step's, until they are used again. */
  async rest(): Promise<void> {
    await this.release('evaluation', 'gateGradients');
  }

  async close(): Promise<void> {
    await this.release('step', 'evaluation', 'gateGradients');
  }

  private async release(...names: readonly GraphName[]): Promise<void> {
    for (const name of names) {
      const session = this.sessions.get(name);
      this.sessions.delete(name);
      // One that could not be opened has told so where it was asked for.
      await (await session?.catch(() => undefined))?.release();
    }
  }

  private async graph(name: GraphName): Promise<OpenGraph> {
    if (name !== 'step') await this.release(name === 'evaluation' ? 'gateGradients' : 'evaluation');
    const written = once(this.written, name, () => this.writeGraph(name));
    const session = once(this.sessions, name, async () => {
      const { path, prepack } = await written;
      return openSession(path, this.options, { prepack });
    });
    return { session: await session, feeder: (await written).feeder };
  }

  private async writeGraph(name: GraphName): Promise<WrittenGraph> {
    const model = builders[name](name === 'step' ? this.trained : this.adapted, this.options);
    const feeder = new Feeder(model.graph, this.adapters, [], this.adapted.seq2seq);
    suitDevice(model, this.options.device);
    partPasses(model);
    const path = await this.write(name, model);
    // Packed, 8-bit products save a sixth of a step for a copy of the weights; other sessions run too seldom for that.
    const prepack = worthPacking(model.graph, 'batches') || (name === 'step' && this.toInt8 !== undefined);
    return { path, prepack, feeder };
  }
}

function once<Value>(
  made: Map<GraphName, Promise<Value>>,
  name: GraphName,
  make: () => Promise<Value>,
): Promise<Value> {
  const value = made.get(name) ?? make();
  made.set(name, value);
  return value;
}

const builders = { step: stepGraph, evaluation: evaluationGraph, gateGradients: gateGradientGraph };

/** Refuses losses that are not finite; the state on disk stays the last good one. */
export function requireFinite(loss: number, step: number): void {
  if (Number.isFinite(loss)) return;
  if (step === 0)
    throw new AloraError('model', 'MODEL_NOT_FINITE', 'The loss is not finite before the first step', {
      got: loss,
      fix: 'Use another file of the model: this one holds NaN, or its float16 numbers overflow (then take float32).',
    });
  throw new AloraError('diverged', 'TRAIN_DIVERGED', 'The loss is not finite: training diverged', {
    where: `step ${step}`,
    got: loss,
    fix: 'Lower train.learningRate, raise train.warmup, or lower train.clip; what was saved stays.',
  });
}
