import type * as ort from 'onnxruntime-node';
import type { AdapterSet } from '../adapters/adapterSet.ts';
import { parameterInput } from '../adapters/rewriter.ts';
import type { GateSetting } from '../adapters/strategy.ts';
import { cloneModel } from '../onnx/clone.ts';
import type { Model, Node, Value } from '../onnx/graph.ts';
import { keepOutputs } from '../passes/prune.ts';
import { findSegments, type Segments, startAt } from '../passes/segments.ts';
import { type AdaptedRuntime, sum } from './adaptedRuntime.ts';
import { Feeder, type GateReader } from './feeds.ts';
import { gatesOf, type LabelledBatch } from './gateLosses.ts';
import { runSession } from './session.ts';
import { evaluationGraph, outputNames } from './trainingGraph.ts';

/** One stretch of the model between two cuts, with a session of its own. */
interface Stage {
  readonly session: ort.InferenceSession;
  readonly feeder: Feeder;
  /** The cut that it starts from; undefined for the first. */
  readonly from: string | undefined;
  /** The cut that it ends in, or the losses. */
  readonly to: string;
}

/**
 * Losses of many gate settings by reusing what they share. The model is cut at the residual stream into stages
 * that each hold adapters; a setting that differs from "all on" (or "all off") in one module runs only the stages
 * from that module on, starting from the hidden state that the unchanged setting leaves there. Ranks spread evenly
 * over the blocks, so about half of the work of whole passes remains. The oracle is `naiveGateLosses`.
 */
export class SegmentedLosses {
  private constructor(
    private readonly runtime: AdaptedRuntime,
    private readonly stages: readonly Stage[],
    /** First stage that each module has a say in, by module index. */
    private readonly stageOf: readonly number[],
  ) {}

  static async open(runtime: AdaptedRuntime): Promise<SegmentedLosses> {
    const model = evaluationGraph(runtime.adapted);
    keepOutputs(model.graph, [outputNames.losses]);
    const segments = findSegments(model, model.graph.findOutput(outputNames.losses)!);
    const segmentOfModule = runtime.adapters.modules.map((module) =>
      firstSegment(segments, model.graph.findInput(parameterInput(module, 'gate'))!),
    );
    // A stage begins where a segment holds adapters; what holds none belongs to the stage before it.
    const starts = [...new Set(segmentOfModule)].filter((segment) => segment > 0).sort((a, b) => a - b);
    const cuts = starts.map((segment) => segments.cuts[segment - 1]!.name);
    const stages: Stage[] = [];
    for (let i = 0; i <= cuts.length; i++)
      stages.push(await openStage(runtime, model, i, cuts[i - 1], cuts[i] ?? outputNames.losses));
    const stageOf = segmentOfModule.map((segment) => starts.filter((start) => start <= segment).length);
    return new SegmentedLosses(runtime, stages, stageOf);
  }

  /** Mean loss over all trained tokens of the batches under each setting; `breathe` may throw to stop. */
  async losses(
    batches: readonly LabelledBatch[],
    settings: readonly GateSetting[],
    breathe: () => void = () => {},
  ): Promise<Float64Array> {
    const labels = batches.reduce((total, batch) => total + batch.labels, 0);
    const means = new Float64Array(settings.length);
    for (const batch of batches)
      for (const on of ['all', 'none'] as const) {
        const own = settings.flatMap((setting, i) => (setting.on === on ? [i] : []));
        if (own.length > 0) await this.addLosses(batch, on, settings, own, means, breathe);
      }
    return means.map((total) => total / labels);
  }

  private async addLosses(
    batch: LabelledBatch,
    on: GateSetting['on'],
    settings: readonly GateSetting[],
    own: readonly number[],
    totals: Float64Array,
    breathe: () => void,
  ): Promise<void> {
    const unchanged = gatesOf(this.runtime, { on, except: [] });
    const hidden: (ort.Tensor | undefined)[] = [undefined];
    for (let stage = 0; stage < this.stages.length; stage++)
      hidden.push(await this.runStage(stage, batch, unchanged, hidden[stage]));
    for (const i of own) {
      breathe();
      const setting = settings[i]!;
      const first = Math.min(this.stages.length, ...setting.except.map(([module]) => this.stageOf[module]!));
      const gates = gatesOf(this.runtime, setting);
      let state = hidden[first];
      for (let stage = first; stage < this.stages.length; stage++)
        state = await this.runStage(stage, batch, gates, state);
      totals[i]! += sum(state!.data as Float32Array);
    }
  }

  private async runStage(
    index: number,
    batch: LabelledBatch,
    gates: GateReader,
    state: ort.Tensor | undefined,
  ): Promise<ort.Tensor> {
    const { session, feeder, from, to } = this.stages[index]!;
    const feeds = { ...feeder.batch(batch), ...feeder.parameters(this.runtime.adapters, gates) };
    if (from !== undefined) feeds[from] = state!;
    return (await runSession(session, `stage ${index + 1}`, feeds, [to]))[to]!;
  }

  async close(): Promise<void> {
    for (const { session } of this.stages) await session.release();
  }
}

async function openStage(
  runtime: AdaptedRuntime,
  whole: Model,
  index: number,
  from: string | undefined,
  to: string,
): Promise<Stage> {
  const model = cloneModel(whole);
  const { graph } = model;
  const find = (name: string): Value => {
    for (const node of graph.nodes) for (const value of node.outputs) if (value?.name === name) return value;
    throw new RangeError(`no value ${name}`);
  };
  graph.outputs = [find(to)];
  if (from !== undefined) startAt(graph, find(from));
  else keepOutputs(graph, [to]);
  const feeder = new Feeder(
    graph,
    runtime.adapters,
    from === undefined ? [] : [from],
    runtime.adapted.seq2seq,
  );
  const session = await runtime.openModel(`stage-${index}`, model);
  return { session, feeder, from, to };
}

/** The first segment whose stream the value reaches; parameters lie off the stream themselves. */
function firstSegment(segments: Segments, value: Value): number {
  let first = Number.POSITIVE_INFINITY;
  const seen = new Set<Node>();
  const follow = (from: Value) => {
    for (const node of from.users) {
      if (seen.has(node)) continue;
      seen.add(node);
      const segment = segments.segmentOf(node);
      if (segment !== null) first = Math.min(first, segment);
      else for (const output of node.outputs) if (output) follow(output);
    }
  };
  follow(value);
  return Number.isFinite(first) ? first : segments.cuts.length;
}

/** Whether a model can be scored by stages: every module has gates and the graph can be cut. */
export function canSegment(adapters: AdapterSet): boolean {
  return adapters.modules.length > 0 && adapters.modules.every((module) => adapters.has(module, 'gate'));
}
