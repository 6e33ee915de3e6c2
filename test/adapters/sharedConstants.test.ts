import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { branchesOf } from '../../src/adapters/mergeBranch.ts';
import { patchesOf } from '../../src/adapters/mergePlan.ts';
import { requantisedOf } from '../../src/adapters/mergeRequantise.ts';
import type { LowRankWeights, PeftAdapter } from '../../src/adapters/peft.ts';
import { dequantised, gridOf } from '../../src/adapters/quantGrid.ts';
import { constantOf, findLinearModules } from '../../src/adapters/targets.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { decodeModel } from '../../src/onnx/decode.ts';
import { encodeModel, writeModel } from '../../src/onnx/encode.ts';
import { Graph, type Model, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-shared-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const [width, rank] = [4, 1];
const values = (seed: number) => Array.from({ length: width * width }, (_, i) => ((i * 7 + seed) % 11) + 120);
const names = ['model.layers.0.mlp.up_proj', 'model.layers.1.mlp.up_proj', 'classifier'] as const;

interface Graphs {
  readonly make: Builder;
  readonly x: Value;
  readonly constant: (name: string, tensor: Tensor) => Value;
  /** x W by a weight of its own under a scale and a zero point that may be shared. */
  readonly layer: (name: string, x: Value, weight: Value, scale: Value, zero: Value) => Value;
}

/** A file of layers uint8 [4, 4] behind DequantizeLinear, as an optimiser that shares equal constants leaves it. */
function write(name: string, build: (parts: Graphs) => Value): readonly [root: string, file: string] {
  const graph = new Graph();
  const make = new Builder(graph, '');
  const x = graph.input('x', 'float32', ['n', width]);
  const y = build({
    make,
    x,
    constant: (key, tensor) => graph.constant(key, tensor),
    layer: (module, input, weight, scale, zero) => {
      const path = module.replaceAll('.', '/');
      const floats = make.op('DequantizeLinear', [weight, scale, zero], {
        name: `${path}/DequantizeLinear`,
        attributes: { axis: 1 },
      });
      return make.op('MatMul', [input, floats], { name: `${path}/MatMul` });
    },
  });
  y.name = 'logits';
  graph.outputs = [y];
  const opsets = new Map([['', 17]]);
  const model: Model = { irVersion: 8, opsets, graph, producer: 'test', metadata: new Map() };
  const root = join(scratch, name);
  mkdirSync(root);
  writeFileSync(join(root, 'config.json'), '{}');
  writeModel(model, join(root, 'model.onnx'));
  return [root, 'model.onnx'];
}

const weights: LowRankWeights = {
  rank,
  in: width,
  out: width,
  scale: 1,
  A: Float32Array.of(1.03, -0.97, 2.01, 0.51),
  B: Float32Array.of(0.5, 3, -2, 1),
  gate: Float32Array.of(1),
};

function adapterOf(modules: readonly string[], saved: Readonly<Record<string, Tensor>> = {}): PeftAdapter {
  return {
    modules: new Map(modules.map((name) => [name, weights])),
    saved: new Map(Object.entries(saved)),
    modulesToSave: Object.keys(saved).length > 0 ? ['classifier'] : [],
    baseModel: null,
    taskType: null,
    fanInFanOut: false,
  };
}

/** Weights by module, as floats [in, out]. */
function floats(model: Model): Map<string, Float32Array> {
  return new Map(findLinearModules(model).map((module) => [module.name, dequantised(gridOf(module)!)]));
}

const delta = Float32Array.from(
  { length: width * width },
  (_, i) => weights.A[Math.floor(i / width)]! * weights.B[i % width]!,
);
/** Half a step of the new grid, whose range is below 40 for 255 steps, is less than 0.1. */
function expectNear(actual: Float32Array, expected: readonly number[]): void {
  for (const [i, value] of actual.entries()) expect(Math.abs(value - expected[i]!)).toBeLessThan(0.1);
}

describe('constants that several layers share', () => {
  const quantised = (name: string) =>
    write(name, ({ make, x, constant, layer }) => {
      const [scale, zero] = [
        constant('scale', Tensor.float32([0.25], [])),
        constant('zero', Tensor.of('uint8', [119], [])),
      ];
      const [a, b] = [0, 1].map((i) => constant(`w${i}`, Tensor.of('uint8', values(i), [width, width])));
      const hidden = make.op('Tanh', [layer(names[0], x, a!, scale, zero)]);
      return layer(names[1], hidden, b!, scale, zero);
    });
  const before = [0, 1].map((seed) => values(seed).map((value) => (value - 119) * 0.25));

  it('are changed for one layer alone when its weight is quantised again', () => {
    const { model } = requantisedOf(...quantised('one'), {}, adapterOf([names[0]]))!;
    const after = floats(model);
    expectNear(
      after.get(names[0])!,
      before[0]!.map((value, i) => value + delta[i]!),
    );
    expect([...after.get(names[1])!]).toEqual(before[1]);
  });

  it('are changed for each layer in its own way', () => {
    const { model } = requantisedOf(...quantised('both'), {}, adapterOf(names.slice(0, 2)))!;
    const after = floats(model);
    for (const layer of [0, 1])
      expectNear(
        after.get(names[layer]!)!,
        before[layer]!.map((value, i) => value + delta[i]!),
      );
  });

  it('refuses a weight that is also an embedding', () => {
    const [root, file] = write('tied', ({ make, x, constant, layer }) => {
      const scale = constant('scale', Tensor.float32([0.25], []));
      const zero = constant('zero', Tensor.of('uint8', [119], []));
      const weight = constant('w', Tensor.of('uint8', values(0), [width, width]));
      const y = layer(names[0], x, weight, scale, zero);
      const rows = make.op('Gather', [weight, make.ints([0])], { attributes: { axis: 0 } });
      return make.op('Add', [y, make.op('Cast', [rows], { attributes: { to: 1 } })]);
    });
    expect(() => requantisedOf(root, file, {}, adapterOf([names[0]]))).toThrowError(
      expect.objectContaining({
        code: 'MODEL_REQUANTISE',
        details: expect.objectContaining({ got: expect.stringMatching(/Gather/) }),
      }),
    );
  });
});

describe('a trained head beside quantised layers', () => {
  const head = {
    'classifier.weight': Tensor.float32(new Float32Array(2 * width).fill(0.5), [2, width]),
    'classifier.bias': Tensor.float32([1, -1]),
  };
  /** `tail` gives logits from the hidden states. */
  const file = (name: string, tail: (parts: Graphs, hidden: Value, weight: Value) => Value) =>
    write(name, (parts) => {
      const { x, constant, layer } = parts;
      const scale = constant('scale', Tensor.float32([0.25], []));
      const zero = constant('zero', Tensor.of('uint8', [119], []));
      const weight = constant('w', Tensor.of('uint8', values(0), [width, width]));
      const hidden = layer(names[0], x, weight, scale, zero);
      return tail(parts, hidden, constant('head', Tensor.float32(new Float32Array(width * 2), [width, 2])));
    });
  const product = ({ make }: Graphs, hidden: Value, weight: Value) =>
    make.op('MatMul', [hidden, weight], { name: 'classifier/MatMul' });
  const adapter = adapterOf([names[0]], head);
  const ways = { branch: branchesOf, requantise: requantisedOf, patch: patchesOf };

  it.each(['branch', 'requantise'] as const)('refuses a bias that the layer has no place for: %s', (way) => {
    const [root, path] = file(`no-bias-${way}`, product);
    expect(() => ways[way](root, path, {}, adapter)).toThrowError(
      expect.objectContaining({ code: 'ADAPTER_MISMATCH' }),
    );
  });

  it.each(['branch', 'requantise'] as const)('refuses a bias that something else reads: %s', (way) => {
    const [root, path] = file(`shared-bias-${way}`, (parts, hidden, weight) => {
      const bias = parts.constant('zeros', Tensor.float32([0, 0]));
      const logits = parts.make.op('Add', [product(parts, hidden, weight), bias]);
      return parts.make.op('Mul', [logits, parts.make.op('Exp', [bias])]);
    });
    expect(() => ways[way](root, path, {}, adapter)).toThrowError(
      expect.objectContaining({ code: 'MODEL_WEIGHT_SHARED' }),
    );
  });

  it('keeps a bias that a product reads through a cast', () => {
    const [root, path] = file('cast-bias', ({ make, constant }, hidden, weight) => {
      const bias = make.op('Cast', [constant('bias', Tensor.of('float16', [0, 0], [2]))], {
        attributes: { to: 1 },
      });
      return make.op('Gemm', [hidden, weight, bias], { name: 'classifier/Gemm' });
    });
    const { model } = branchesOf(root, path, {}, adapter)!;
    const added = model.graph.findOutput('logits')!.producer!;
    expect(added.op).toBe('Add');
    expect(added.inputs[1]!.producer?.op ?? added.inputs[1]!.initializer?.dtype).toBe('Cast');
  });
});

describe('constants that are nodes', () => {
  const node = (make: Builder, value: Tensor) => make.op('Constant', [], { attributes: { value } });
  /** A quantised layer and a head behind it. */
  const file = (name: string) =>
    write(name, ({ make, x, layer }) => {
      const weight = node(make, Tensor.of('uint8', values(0), [width, width]));
      const [scale, zero] = [
        node(make, Tensor.float32([0.25], [])),
        node(make, Tensor.of('uint8', [119], [])),
      ];
      const hidden = layer(names[0], x, weight, scale, zero);
      const head = node(make, Tensor.float32(new Float32Array(width * 2), [width, 2]));
      const logits = make.op('MatMul', [hidden, head], { name: 'classifier/MatMul' });
      return make.op('Add', [logits, node(make, Tensor.float32([0, 0]))]);
    });
  const adapter = adapterOf([names[0]], {
    'classifier.weight': Tensor.float32(new Float32Array(2 * width).fill(0.5), [2, width]),
    'classifier.bias': Tensor.float32([1, -1]),
  });

  it.each([
    ['branch', branchesOf],
    ['requantise', requantisedOf],
  ] as const)('are changed like others: %s', (way, merge) => {
    const { model } = merge(...file(`nodes-${way}`), {}, adapter)!;
    const written = decodeModel(encodeModel(model), 'memory');
    const modules = findLinearModules(written);
    const head = modules.find(({ name }) => name.startsWith('classifier'))!;
    expect(constantOf(head.bias)!.tensor.toNumbers()).toEqual([1, -1]);
    if (way === 'branch') return;
    expect([...new Set(head.weight.tensor.toNumbers())]).toEqual([0.5]);
    const before = values(0).map((value) => (value - 119) * 0.25);
    expectNear(
      dequantised(gridOf(modules[0]!)!),
      before.map((value, i) => value + delta[i]!),
    );
  });
});
