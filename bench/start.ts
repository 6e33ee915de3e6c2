// One process from its start to its first steps: takes a case as JSON on standard input, prints one line of JSON.
import { readFileSync } from 'node:fs';
import type { InferenceSession } from 'onnxruntime-node';
import { chunkLengths } from '../src/autodiff/chunkedLoss.ts';
import { readModel } from '../src/onnx/decode.ts';
import type { Model } from '../src/onnx/graph.ts';
import { inputNames } from '../src/runtime/adaptedModel.ts';
import { activationBytes, type Lengths, weightBytes } from '../src/runtime/memory.ts';
import { findModel } from '../src/runtime/modelDirectory.ts';
import { openWorkspace } from '../src/runtime/workspace.ts';
import { assemble, openModel } from '../src/training/assemble.ts';
import type { StepCase } from './cases.ts';
import { batchOf, configOf, strategies, watchSessions } from './training.ts';

/** Parts in the order in which they come. */
export interface StartParts {
  /** Seconds. */
  readonly time: Readonly<Record<string, number>>;
  /** Bytes, as the operating system counts them. */
  readonly memory: Readonly<Record<string, number>>;
  /** Bytes of activations and gradients of sessions of which one is open at a time, unless they stay open. */
  readonly inTurn: Readonly<Record<'step' | 'evaluation', number>>;
  /** Sessions that pack 8-bit weights do. */
  readonly stayOpen: boolean;
  readonly weights: number;
  /** Bytes of resident memory at its highest. */
  readonly peak: number;
}

const time: Record<string, number> = {};
/** Ends a part: what has passed since the last one ended. */
let last = 0;
function end(part: string): void {
  const now = performance.now();
  time[part] = (now - last) / 1000;
  last = now;
}

end('Node, our modules, ONNX Runtime');
const bare = process.memoryUsage.rss();
const step = JSON.parse(readFileSync(0, 'utf8')) as StepCase;
const config = configOf(step);
const directory = findModel(config.model.path, {});

last = performance.now();
readModel(directory.file);
end('reading the model');
const reading = time['reading the model']!;

const graphs = new Map<string, Model>();
const workspace = openWorkspace();
const opened = openModel(config.model, {
  ...workspace,
  shareWeights(graph) {
    end('passes');
    // The model is read again here, as in every run.
    time.passes! -= reading;
    workspace.shareWeights(graph);
    end('writing the weights');
  },
  write(name, model) {
    end(`graph: ${name}`);
    graphs.set(name, model);
    const path = workspace.write(name, model);
    end(`writing: ${name}`);
    return path;
  },
});
const feedsOf = new Map<'step' | 'evaluation', InferenceSession.FeedsType>();
let isReady = false;
watchSessions({
  onCreate: () => isReady || end(graphs.size > 0 ? `session: ${[...graphs.keys()].at(-1)}` : '8-bit test'),
  onRun: (_, feeds) => feedsOf.set(inputNames.lossScale in feeds ? 'step' : 'evaluation', feeds),
});
const length = { totalSteps: 10, stepsPerEpoch: 10 };
const run = assemble(opened, config, { strategies, length });
end('adding adapters');
const built = process.memoryUsage.rss();
await run.runtime.open();
isReady = true;

const batch = batchOf(step, 0);
const scale = { loss: 1 / batch.rows.length, penalty: 1 };
last = performance.now();
await run.runtime.step(batch, scale);
end('first step, its session opened again');
await run.runtime.step(batch, scale);
end('a later step');
await run.runtime.evaluate(batch);
end('first evaluation, its session opened again');

const { values, gradients, firstMoments, secondMoments } = run.adapters;
const [stepGraph, evaluation] = [graphs.get('step')!, graphs.get('evaluation')!];
const stayOpen = step.compute === 'int8';
const parts: StartParts = {
  time,
  memory: {
    'Node, our modules, ONNX Runtime': bare,
    'reading and preparing the model': built - bare,
    ...(stayOpen
      ? {
          'weights, mapped by the step': weightBytes(stepGraph),
          'weights, packed by the step': weightBytes(stepGraph, 'int8'),
          'weights, mapped by the evaluation': weightBytes(evaluation),
        }
      : { 'weights, mapped from their file': weightBytes(stepGraph) }),
    'parameters, gradients, moments': [values, gradients, firstMoments, secondMoments].reduce(
      (sum, array) => sum + array.byteLength,
      0,
    ),
  },
  inTurn: {
    step: activationBytes(stepGraph, lengthsOf(stepGraph, feedsOf.get('step')!)).arena,
    evaluation: activationBytes(evaluation, lengthsOf(evaluation, feedsOf.get('evaluation')!)).arena,
  },
  stayOpen,
  weights: weightBytes(stepGraph),
  peak: process.resourceUsage().maxRSS * 1024,
};
await run.close();
console.log(JSON.stringify(parts));

/** The lengths that the tensors of a run gave to the symbolic dimensions of a graph. */
function lengthsOf({ graph }: Model, feeds: InferenceSession.FeedsType): Lengths {
  const lengths: Record<string, number> = chunkLengths('labels', batch.rows.length);
  for (const { name, shape } of graph.inputs)
    shape?.forEach((dim, axis) => {
      const tensor = feeds[name];
      if (typeof dim === 'string' && tensor && 'dims' in tensor) lengths[dim] = tensor.dims[axis]!;
    });
  return lengths;
}
