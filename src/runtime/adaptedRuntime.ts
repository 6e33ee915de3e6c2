import type { AdapterSet } from '../adapters/adapterSet.ts';
import { AloraError } from '../errors.ts';
import type { Model } from '../onnx/graph.ts';
import { suitDevice } from '../passes/suitDevice.ts';
import { type AdaptedModel, inputNames, outputNames } from './adaptedModel.ts';
import { type Compute, openInt8, requireInt8, type ToInt8 } from './compute.ts';
import { type Dropout, Feeder, type GateReader, type TokenBatch } from './feeds.ts';
import { worthPacking } from './prepacking.ts';
import { type Feeds, openSession, type RuntimeOptions, runSession } from './session.ts';
import {
  evaluationGraph,
  gateGradientGraph,
  gradientOutput,
  logitsGraph,
  partPasses,
  stepGraph,
} from './trainingGraph.ts';
import { Turns } from './turns.ts';
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

type GraphName = 'step' | 'evaluation' | 'logits' | 'gateGradients';

interface WrittenGraph {
  readonly path: string;
  readonly prepack: boolean;
  readonly feeder: Feeder;
}

export interface AdaptedRuntimeOptions extends RuntimeOptions {
  /** Training steps compute activations again instead of keeping them. */
  readonly recompute?: boolean;
  /** How products with frozen weights are computed, in every session. Default float32. */
  readonly compute?: Compute;
}

/**
 * The sessions over one adapted model: training step, evaluation, logits, gate gradients. Each graph is written at its first
 * use; all map the same weight file. Ranks, gates and parameters are inputs, so none is ever rebuilt. The sessions
 * take turns (see Turns).
 */
export class AdaptedRuntime {
  private written = new Map<GraphName, Promise<WrittenGraph>>();
  private turns = new Turns<GraphName>(async (name) => {
    const { path, prepack } = await this.graph(name);
    const session = await openSession(path, this.options, { prepack });
    // Packing weights takes seconds, and so does copying them to a GPU. Then the step stays open, and evaluation beside
    // it; gate gradients and scores are wanted seldom.
    const isDear = prepack || this.options.device !== 'cpu';
    return { session, restsFor: (working) => !isDear || (name !== 'step' && working !== 'step') };
  });
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
    twin.turns = this.turns;
    twin.toInt8 = this.toInt8;
    return twin;
  }

  /** Opens the sessions that training needs, so that their errors come before the first step. */
  async open(): Promise<void> {
    await this.turns.use('step', async () => {});
    await this.turns.use('evaluation', async () => {});
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
    const outputs = await this.run('step', (feeder) => ({
      ...feeder.batch(batch, {
        [inputNames.lossScale]: scale.loss,
        [inputNames.penaltyScale]: scale.penalty,
      }),
      ...feeder.parameters(this.adapters),
      ...(dropout && dropout.probability > 0 ? feeder.dropout(this.adapters.modules, batch, dropout) : {}),
    }));
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
    const fetches = [outputNames.losses, outputNames.predictions, ...(logits ? [outputNames.rowLogits] : [])];
    const outputs = await this.run(
      logits ? 'logits' : 'evaluation',
      (feeder) => ({ ...feeder.batch(batch), ...feeder.parameters(this.adapters, gates) }),
      fetches,
    );
    return {
      losses: outputs[outputNames.losses]!.data as Float32Array,
      predictions: outputs[outputNames.predictions]!.data as BigInt64Array,
      logits: outputs[outputNames.rowLogits]?.data as Float32Array | undefined,
    };
  }

  /** Logits at the batch's rows, float32 [n * V]. */
  async logits(batch: TokenBatch): Promise<Float32Array> {
    const outputs = await this.run(
      'logits',
      (feeder) => ({
        ...feeder.batch(batch),
        ...feeder.parameters(this.adapters, liveGates(this.adapters)),
      }),
      [outputNames.rowLogits],
    );
    return outputs[outputNames.rowLogits]!.data as Float32Array;
  }

  /** Sum of losses, and scale * d(sum)/d(gate) by module index. */
  async gateGradients(batch: TokenBatch, scale: number, gates: GateReader): Promise<Float32Array[]> {
    const outputs = await this.run('gateGradients', (feeder) => ({
      ...feeder.batch(batch, { [inputNames.lossScale]: scale }),
      ...feeder.parameters(this.adapters, gates),
    }));
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

  /** Makes room for other sessions over the same model; those that close are opened again when they are used. */
  rest(): Promise<void> {
    return this.turns.rest();
  }

  close(): Promise<void> {
    return this.turns.close();
  }

  private async run(
    name: GraphName,
    feeds: (feeder: Feeder) => Feeds,
    fetches?: readonly string[],
  ): Promise<Feeds> {
    const { feeder } = await this.graph(name);
    return this.turns.use(name, (session) => runSession(session, graphTitles[name], feeds(feeder), fetches));
  }

  private graph(name: GraphName): Promise<WrittenGraph> {
    const graph = this.written.get(name) ?? this.writeGraph(name);
    this.written.set(name, graph);
    return graph;
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

const builders = {
  step: stepGraph,
  evaluation: evaluationGraph,
  logits: logitsGraph,
  gateGradients: gateGradientGraph,
};

/** As error messages name them. */
const graphTitles = {
  step: 'training',
  evaluation: 'evaluation',
  logits: 'logits',
  gateGradients: 'gate gradient',
};

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
