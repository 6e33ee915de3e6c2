import type * as ort from 'onnxruntime-node';
import type { AdapterSet } from '../adapters/adapterSet.ts';
import { parameterInput } from '../adapters/rewriter.ts';
import type { GateSetting } from '../adapters/strategy.ts';
import { cloneModel } from '../onnx/clone.ts';
import type { Model, Value } from '../onnx/graph.ts';
import { keepOutputs } from '../passes/prune.ts';
import { startAt } from '../passes/segments.ts';
import { type Stages, stagesBySwitch } from '../passes/stages.ts';
import { suitDevice } from '../passes/suitDevice.ts';
import { outputNames } from './adaptedModel.ts';
import { type AdaptedRuntime, sum } from './adaptedRuntime.ts';
import { Feeder, type GateReader } from './feeds.ts';
import { gatesOf, type LabelledBatch, naiveGateLosses } from './gateLosses.ts';
import { worthPacking } from './prepacking.ts';
import { openSession, runSession } from './session.ts';
import { type AddRows, SharedHead } from './sharedHead.ts';
import { logitsGraph } from './trainingGraph.ts';

/** A run of stages as a graph file. */
interface Piece {
  readonly path: string;
  readonly prepack: boolean;
  readonly feeder: Feeder;
  /** What it reads of earlier stages. */
  readonly inputs: readonly string[];
  /** What later stages read of it; of the last stage, the losses or what the head reads. */
  readonly outputs: readonly string[];
}

/** Hidden states by name, as they stand before a stage. */
type Frontier = ReadonlyMap<string, ort.Tensor>;

/** A batch under "all on" or "all off", and the settings that differ from it. */
interface Baseline {
  readonly batch: LabelledBatch;
  readonly on: GateSetting['on'];
  frontier: Frontier;
}

/**
 * Losses of many gate settings by reusing what they share. The model is cut right before the gates of its modules: a
 * setting that differs from "all on" (or "all off") in one module runs only what lies behind that module's gate,
 * starting from what the unchanged setting leaves there, so that neither earlier blocks nor the module's own product
 * are computed again. Ranks spread evenly over the blocks: a bit less than half of the work of whole passes remains.
 * The head runs for the rows of several batches and settings at once (see SharedHead).
 *
 * All settings of one cut follow each other, and one session is open at a time, the head's aside: it maps the weights
 * that all others map, and costs milliseconds. The oracle is `naiveGateLosses`.
 */
export class StagedLosses {
  private readonly pieces = new Map<string, Piece>();
  /** What the last stage computes: what the head reads, or the losses. */
  private readonly result: string;
  /** The last stage that reads a value which stages hand on. */
  private readonly lastRead: ReadonlyMap<string, number>;

  private constructor(
    private readonly runtime: AdaptedRuntime,
    private readonly model: Model,
    private readonly stages: Stages,
    /** First stage that each module has a say in, by module index. */
    private readonly stageOf: readonly number[],
    private readonly head: SharedHead | undefined,
  ) {
    this.result = head?.hidden ?? outputNames.losses;
    const handedOn = stages.handedOn.flatMap((values) => [...values]);
    this.lastRead = new Map(handedOn.map(([{ name }, last]) => [name, last]));
  }

  static async open(runtime: AdaptedRuntime): Promise<StagedLosses> {
    const { adapters, options } = runtime;
    const model = logitsGraph(runtime.adapted);
    const { graph } = model;
    keepOutputs(graph, [outputNames.losses]);
    suitDevice(model, options.device);
    const parameters = new Set(adapters.slots.map((slot) => parameterInput(slot.module, slot.spec.role)));
    const gates = adapters.modules.map((module) => graph.findInput(parameterInput(module, 'gate')));
    const stages = stagesBySwitch(graph, new Set(gates.filter((gate) => gate !== undefined)), ({ name }) =>
      parameters.has(name),
    );
    const stageOf = gates.map((gate) => (gate ? stages.firstStage(gate) : stages.count));
    return new StagedLosses(runtime, model, stages, stageOf, await SharedHead.write(runtime, model));
  }

  /** Whether the rows of several runs go through the head at once. */
  get sharesHead(): boolean {
    return this.head !== undefined;
  }

  /** Mean loss over all trained tokens of the batches under each setting; `breathe` may throw to stop. */
  async losses(
    batches: readonly LabelledBatch[],
    settings: readonly GateSetting[],
    breathe: () => void = () => {},
  ): Promise<Float64Array> {
    const { count } = this.stages;
    const changed = settings.map(({ except }) =>
      Math.min(count, ...except.map(([module]) => this.stageOf[module]!)),
    );
    const lastOf = (on: GateSetting['on']) =>
      Math.max(-1, ...changed.filter((stage, i) => stage < count && settings[i]!.on === on));
    // An unchanged setting takes the shortest way that others have opened.
    const first = changed.map((stage, i) => (stage < count ? stage : lastOf(settings[i]!.on)));
    const baselines: Baseline[] = (['all', 'none'] as const).flatMap((on) =>
      batches.map((batch) => ({ batch, on, frontier: new Map() })),
    );
    const sums = new Float64Array(settings.length);
    // What evaluation and gate gradients keep in memory makes room.
    await this.runtime.rest();
    await this.withHead(async (end) => {
      let at = 0;
      for (const stage of [...new Set(first)].sort((a, b) => a - b)) {
        if (stage < 0) continue;
        await this.withPiece(at, stage, async (run) => {
          for (const baseline of baselines) {
            breathe();
            if (stage > lastOf(baseline.on)) baseline.frontier = new Map();
            else
              baseline.frontier = await run(baseline, gatesOf(this.runtime, { on: baseline.on, except: [] }));
          }
        });
        at = stage;
        await this.withPiece(stage, count, async (run) => {
          for (const [i, setting] of settings.entries()) {
            if (first[i] !== stage) continue;
            const gates = gatesOf(this.runtime, setting);
            for (const baseline of baselines.filter(({ on }) => on === setting.on)) {
              breathe();
              const results = await run(baseline, gates);
              await end(results.get(this.result)!, baseline.batch, (sum) => {
                sums[i]! += sum;
              });
            }
          }
        });
      }
    });
    const labels = batches.reduce((total, batch) => total + batch.labels, 0);
    const means = sums.map((total) => total / labels);
    const alone = settings.flatMap((_, i) => (first[i]! < 0 ? [i] : []));
    const whole = await naiveGateLosses(
      this.runtime,
      batches,
      alone.map((i) => settings[i]!),
      breathe,
    );
    alone.forEach((i, k) => {
      means[i] = whole[k]!;
    });
    return means;
  }

  /** Calls `use` with what takes the last stage's output of a batch and gives the sum of its losses. */
  private async withHead(use: (end: AddRows) => Promise<void>): Promise<void> {
    if (this.head) await this.head.open(use);
    else await use(async (losses, _, give) => give(sum(losses.data as Float32Array)));
  }

  /** Opens the stages from `from` to before `to` for as long as `use` runs them. */
  private async withPiece(
    from: number,
    to: number,
    use: (run: (before: Baseline, gates: GateReader) => Promise<Frontier>) => Promise<void>,
  ): Promise<void> {
    const key = `stages-${from}-${to}`;
    const piece = this.pieces.get(key) ?? (await this.write(key, from, to));
    this.pieces.set(key, piece);
    const { path, prepack, feeder, inputs, outputs } = piece;
    const session = await openSession(path, this.runtime.options, { prepack });
    try {
      await use(async ({ batch, frontier }, gates) => {
        const feeds = { ...feeder.batch(batch), ...feeder.parameters(this.runtime.adapters, gates) };
        for (const name of inputs) feeds[name] = frontier.get(name)!;
        const results = await runSession(session, key, feeds, outputs);
        const kept = [...frontier].filter(([name]) => this.lastRead.get(name)! >= to);
        return new Map([...kept, ...Object.entries(results)]);
      });
    } finally {
      await session.release();
    }
  }

  private async write(key: string, from: number, to: number): Promise<Piece> {
    const { handedOn, count } = this.stages;
    const names = (begin: number, end: number) =>
      handedOn
        .slice(begin, end)
        .flatMap((values) => [...values].flatMap(([{ name }, last]) => (last >= end ? [name] : [])));
    const model = cloneModel(this.model);
    const { graph } = model;
    const values = new Map<string, Value>();
    for (const { outputs } of graph.nodes)
      for (const value of outputs) if (value) values.set(value.name, value);
    const outputs = to === count ? [this.result] : names(from, to);
    graph.outputs = outputs.map((name) => values.get(name)!);
    const earlier = names(0, from);
    startAt(graph, ...earlier.map((name) => values.get(name)!));
    const inputs = earlier.filter((name) => graph.findInput(name));
    const feeder = new Feeder(graph, this.runtime.adapters, inputs, this.runtime.adapted.seq2seq);
    const path = await this.runtime.write(key, model);
    return { path, prepack: worthPacking(graph, 'batches'), feeder, inputs, outputs };
  }
}

/** Whether a model can be scored by stages: every module has gates. */
export function canStage(adapters: AdapterSet): boolean {
  return adapters.modules.length > 0 && adapters.modules.every((module) => adapters.has(module, 'gate'));
}
