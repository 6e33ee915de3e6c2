import * as ort from 'onnxruntime-node';
import { parameterInput } from '../adapters/rewriter.ts';
import { findHead } from '../autodiff/chunkedLoss.ts';
import { cloneModel } from '../onnx/clone.ts';
import type { Model, Value } from '../onnx/graph.ts';
import { startAt } from '../passes/segments.ts';
import { inputNames, outputNames } from './adaptedModel.ts';
import { type AdaptedRuntime, sum } from './adaptedRuntime.ts';
import { Feeder, type TokenBatch } from './feeds.ts';
import { worthPacking } from './prepacking.ts';
import { openSession, runSession } from './session.ts';

/** Rows of a run: a row of GPT-2's head takes a tenth less time than in a run of 128; its logits are 50 MB then. */
const rowsOfRun = 256;

/** Labelled rows as they reach the head, and who wants the sum of their losses. */
interface Rows {
  /** float32 [n, hidden]. */
  readonly hidden: ort.Tensor;
  /** int64 [n]. */
  readonly targets: ort.Tensor;
  readonly give: (sum: number) => void;
}

/** Takes what the head is to read of a batch; calls `give` with the sum of its losses, at once or later. */
export type AddRows = (hidden: ort.Tensor, batch: TokenBatch, give: (sum: number) => void) => Promise<void>;

/**
 * The head of a model and the losses behind it, as a graph of its own. A run reads all of the head's weight, which takes
 * as long as computing some 35 rows: so the rows of several runs of what lies before it wait for each other.
 */
export class SharedHead {
  private constructor(
    private readonly runtime: AdaptedRuntime,
    private readonly file: { readonly path: string; readonly prepack: boolean; readonly feeder: Feeder },
    /** Name of the value that the head reads, float32 [labels, hidden], in the evaluation graph. */
    readonly hidden: string,
  ) {}

  /** Of an evaluation graph whose only outputs are the losses; undefined where the model does not end in a frozen head. */
  static async write(runtime: AdaptedRuntime, evaluation: Model): Promise<SharedHead | undefined> {
    const { adapted, adapters } = runtime;
    const { graph } = adapted.forward ?? adapted.model;
    const parameters = adapters.slots.map((slot) =>
      graph.findInput(parameterInput(slot.module, slot.spec.role)),
    );
    const found = findHead(
      graph,
      graph.findOutput(outputNames.rowLogits)!,
      parameters.filter((value) => value !== undefined),
      1,
    );
    if (found?.hidden.dtype !== 'float32') return undefined;
    const model = cloneModel(evaluation);
    const hidden = model.graph.nodes
      .flatMap(({ outputs }) => outputs)
      .find((value): value is Value => value?.name === found.hidden.name);
    if (!hidden) return undefined;
    startAt(model.graph, hidden);
    const inputs = model.graph.inputs.filter((value) => !value.initializer).map(({ name }) => name);
    if (inputs.length !== 2 || !inputs.includes(inputNames.targets)) return undefined;
    const feeder = new Feeder(model.graph, adapters, [hidden.name], adapted.seq2seq);
    const path = await runtime.write('head', model);
    return new SharedHead(
      runtime,
      { path, prepack: worthPacking(model.graph, 'batches'), feeder },
      hidden.name,
    );
  }

  /** Opens the head for as long as `use` hands it rows; the last of them are computed when it ends. */
  async open(use: (add: AddRows) => Promise<void>): Promise<void> {
    const { path, prepack, feeder } = this.file;
    const session = await openSession(path, this.runtime.options, { prepack });
    let waiting: Rows[] = [];
    const compute = async () => {
      const [hidden, targets] = [stack(waiting), concatenate(waiting)];
      const feeds = { [this.hidden]: hidden, [inputNames.targets]: targets };
      const outputs = await runSession(session, 'head', feeds, [outputNames.losses]);
      const losses = outputs[outputNames.losses]!.data as Float32Array;
      let at = 0;
      for (const { targets, give } of waiting) {
        give(sum(losses.subarray(at, at + targets.size)));
        at += targets.size;
      }
      waiting = [];
    };
    try {
      await use(async (hidden, batch, give) => {
        const targets = feeder.batch(batch)[inputNames.targets]!;
        const count = waiting.reduce((total, { targets }) => total + targets.size, 0);
        if (count > 0 && count + targets.size > rowsOfRun) await compute();
        waiting.push({ hidden, targets, give });
      });
      if (waiting.length > 0) await compute();
    } finally {
      await session.release();
    }
  }
}

/** Hidden states beneath each other. */
function stack(parts: readonly Rows[]): ort.Tensor {
  const width = parts[0]!.hidden.dims[1]!;
  const all = new Float32Array(parts.reduce((total, { hidden }) => total + hidden.size, 0));
  let at = 0;
  for (const { hidden } of parts) {
    all.set(hidden.data as Float32Array, at);
    at += hidden.size;
  }
  return new ort.Tensor('float32', all, [all.length / width, width]);
}

function concatenate(parts: readonly Rows[]): ort.Tensor {
  const all = parts.flatMap(({ targets }) => [...(targets.data as BigInt64Array)]);
  return new ort.Tensor('int64', BigInt64Array.from(all), [all.length]);
}
