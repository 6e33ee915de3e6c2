import { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node';
import { AdapterSet } from '../adapters/adapterSet.ts';
import type { TargetModule } from '../adapters/module.ts';
import { type ModuleSite, openRewriter, parameterInput, parameterShape } from '../adapters/rewriter.ts';
import type { AdapterStrategy, Budget, Injection } from '../adapters/strategy.ts';
import { crossEntropy } from '../autodiff/crossEntropy.ts';
import { differentiate } from '../autodiff/differentiate.ts';
import { Builder } from '../onnx/builder.ts';
import { encodeModel } from '../onnx/encode.ts';
import { Graph, type Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import { inferTypes } from '../passes/inferTypes.ts';
import { randomStream } from '../random.ts';

const opset = 17;
const width = 16;
export const classes = 5;

/** Two residual blocks of two linear layers each; their costs differ, so that budgets in whole ranks are no given. */
const layers = [
  { in: width, out: 20 },
  { in: 20, out: width },
  { in: width, out: 28 },
  { in: 28, out: width },
];
export const tinyModules = layers.map(
  (size, index): TargetModule => ({
    ...size,
    name: `blocks.${Math.floor(index / 2)}.${index % 2 === 0 ? 'up' : 'down'}`,
    index,
    block: Math.floor(index / 2),
    kind: index % 2 === 0 ? 'up' : 'down',
  }),
);

/** Rows of float inputs, [rows * width], and the class of each. */
export interface TinyBatch {
  readonly inputs: Float32Array;
  readonly targets: BigInt64Array;
}

/** Rows that a fixed linear teacher labels, so that there is something to learn. */
export function tinyRows(rows: number, name: string): TinyBatch {
  const teacher = randomStream(0, 'teacher');
  const weights = Array.from({ length: width * classes }, () => teacher.normal());
  const random = randomStream(0, 'rows', name);
  const inputs = Float32Array.from({ length: rows * width }, () => random.normal());
  const targets = BigInt64Array.from({ length: rows }, (_, row) => {
    const scores = Array.from({ length: classes }, (_, c) =>
      inputs
        .subarray(row * width, (row + 1) * width)
        .reduce((sum, x, i) => sum + x * weights[i * classes + c]!, 0),
    );
    return BigInt(scores.indexOf(Math.max(...scores)));
  });
  return { inputs, targets };
}

export function sliceRows({ inputs, targets }: TinyBatch, from: number, rows: number): TinyBatch {
  return {
    inputs: inputs.subarray(from * width, (from + rows) * width),
    targets: targets.subarray(from, from + rows),
  };
}

export interface TinyStep {
  /** Mean cross-entropy, without penalty. */
  readonly loss: number;
  readonly penalty: number;
  readonly logits: Float32Array;
  /** Gradient of loss + penalty, by graph input. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

/** Frozen weights by module name, row-major [in, out]. */
export type Weights = ReadonlyMap<string, Float32Array>;

export function tinyWeights(): Map<string, Float32Array> {
  return new Map(
    tinyModules.map((module) => {
      const random = randomStream(0, 'weight', module.name);
      const values = Float32Array.from(
        { length: module.in * module.out },
        () => random.normal() / Math.sqrt(module.in),
      );
      return [module.name, values];
    }),
  );
}

/** A strategy's nodes in the tiny model, run by ONNX Runtime. */
export interface TinyModel {
  readonly injections: readonly Injection[];
  /** A fresh arena of what the strategy declared. */
  arena(ranks: readonly number[], seed: number): AdapterSet;
  /** `gates` replaces the values of the gates, by module index. */
  run(
    adapters: AdapterSet,
    batch: TinyBatch,
    gates?: (module: number, gate: Float32Array) => Float32Array,
  ): Promise<TinyStep>;
  close(): Promise<void>;
}

export async function openTinyModel<O>(
  strategy: AdapterStrategy<O>,
  budget: Budget,
  options: O,
  { alpha, weights = tinyWeights() }: { readonly alpha?: number; readonly weights?: Weights } = {},
): Promise<TinyModel> {
  const graph = new Graph();
  const builder = new Builder(graph, '/tiny');
  const sites = new Map<TargetModule, ModuleSite[]>();
  const linear = (module: TargetModule, input: Value): Value => {
    const weight = builder.constant(
      module.name,
      Tensor.float32(weights.get(module.name)!, [module.in, module.out]),
    );
    const output = builder.op('MatMul', [input, weight], { dtype: 'float32', shape: ['n', module.out] });
    sites.set(module, [{ input, output, weight: { value: weight, layout: 'in-out' } }]);
    return output;
  };
  const same = { dtype: 'float32', shape: ['n', width] } as const;
  let x: Value = graph.input('x', 'float32', ['n', width]);
  for (let block = 0; block < layers.length / 2; block++) {
    const [up, down] = tinyModules.filter((module) => module.block === block) as [TargetModule, TargetModule];
    const hidden = builder.op('Tanh', [linear(up, x)], { dtype: 'float32', shape: ['n', up.out] });
    x = builder.op('Add', [x, linear(down, hidden)], same);
  }
  const random = randomStream(0, 'head');
  const head = Float32Array.from({ length: width * classes }, () => random.normal() / 4);
  const logits = builder.op('MatMul', [x, builder.constant('head', Tensor.float32(head, [width, classes]))], {
    dtype: 'float32',
    shape: ['n', classes],
  });
  logits.name = 'logits';
  graph.outputs = [logits];

  const session = openRewriter(graph, sites, { budget, ...(alpha === undefined ? {} : { alpha }) });
  const injections = tinyModules.map((module) =>
    session.injectAt(module, (rewriter) => strategy.inject(rewriter, module, options)),
  );
  const penalty = strategy.penalty?.(session.rewriter, injections, options);
  if (penalty) graph.outputs.push(penalty);
  const targets = graph.input('targets', 'int64', ['n']);
  const weight = graph.input('row_weight', 'float32', ['n']);
  const entropy = crossEntropy(builder, logits, targets, opset);
  graph.outputs.push(entropy.nll);
  const model = {
    irVersion: 8,
    opsets: new Map([['', opset]]),
    graph,
    producer: 'onnx-alora',
    metadata: new Map(),
  };
  inferTypes(model);
  const trained = [...session.parameters].flatMap(([module, specs]) =>
    specs
      .filter((spec) => spec.trained || spec.role === 'gate')
      .map((spec) => graph.findInput(parameterInput(module, spec.role))!),
  );
  const seeds: [Value, Value][] = [[logits, entropy.dLogits(weight)]];
  if (penalty) seeds.push([penalty, builder.scalar(1)]);
  const gradients = differentiate(graph, seeds, trained, { opset });
  for (const value of trained) {
    const gradient = gradients.get(value);
    if (!gradient) continue;
    gradient.name = `d ${value.name}`;
    graph.outputs.push(gradient);
  }
  const [penaltyName, lossName] = [penalty?.name, entropy.nll.name];
  const running = await InferenceSession.create(encodeModel(model), {
    logSeverityLevel: 3,
    intraOpNumThreads: 1,
  });
  const accepted = new Set(running.inputNames);

  return {
    injections,
    arena: (ranks, seed) => new AdapterSet(tinyModules, session.parameters, ranks, seed),
    async run(adapters, batch, gates) {
      const rows = batch.targets.length;
      const feeds: Record<string, OrtTensor> = {
        x: new OrtTensor('float32', batch.inputs, [rows, width]),
        targets: new OrtTensor('int64', batch.targets, [rows]),
        row_weight: new OrtTensor('float32', new Float32Array(rows).fill(1 / rows), [rows]),
      };
      for (const slot of adapters.slots) {
        const values = adapters.view('values', slot);
        const { role } = slot.spec;
        feeds[parameterInput(slot.module, role)] = new OrtTensor(
          'float32',
          role === 'gate' && gates ? gates(slot.module.index, values) : values,
          parameterShape(slot.spec, slot.rows),
        );
      }
      const known = Object.entries(feeds).filter(([name]) => accepted.has(name));
      const outputs = await running.run(Object.fromEntries(known));
      const read = (name: string) => outputs[name]!.data as Float32Array;
      return {
        loss: read(lossName).reduce((sum, value) => sum + value, 0) / rows,
        penalty: penaltyName === undefined ? 0 : read(penaltyName)[0]!,
        logits: read('logits'),
        gradients: new Map(
          trained
            .filter((value) => gradients.get(value))
            .map((value) => [value.name, read(`d ${value.name}`)]),
        ),
      };
    },
    close: () => running.release(),
  };
}
