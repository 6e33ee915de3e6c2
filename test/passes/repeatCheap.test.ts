import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { differentiate } from '../../src/autodiff/differentiate.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { cloneModel } from '../../src/onnx/clone.ts';
import { Graph, type Model, type Node, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { executionOrder } from '../../src/passes/executionOrder.ts';
import { inferTypes } from '../../src/passes/inferTypes.ts';
import { repeatCheap } from '../../src/passes/repeatCheap.ts';
import { modelOf, run } from './models.ts';

const width = 64;

/** z = act(x W) B, x: [2, rows, 64], with the gradient of B from an upstream one; before and after the pass. */
function layer(activation: (make: Builder, h: Value) => Value): {
  plain: Model;
  lean: Model;
  repeated: number;
} {
  const graph = new Graph('layer');
  const x = graph.input('x', 'float32', [2, 'rows', width]);
  const b = graph.input('b', 'float32', [width, 3]);
  const dz = graph.input('dz', 'float32', [2, 'rows', 3]);
  const make = new Builder(graph, '/m');
  const numbers = Float32Array.from({ length: width * width }, (_, i) => Math.sin(i));
  const weight = make.constant('weight', Tensor.float32(numbers, [width, width]));
  const z = make.op('MatMul', [activation(make, make.op('MatMul', [x, weight])), b]);
  graph.outputs = [z];
  const model = modelOf(graph, 20);
  inferTypes(model);
  const forward = new Set(graph.nodes);
  const seed = new Builder(graph, '/seed').op('Mul', [dz, z], { dtype: 'float32', shape: z.shape });
  const gradients = differentiate(graph, [[z, seed]], [b, x], { opset: 20 });
  const outputs = [gradients.get(b)!, gradients.get(x)!];
  outputs.forEach((value, i) => {
    value.name = `gradient${i}`;
  });
  graph.outputs = outputs;
  const plain = cloneModel(model);
  return { plain, lean: model, repeated: repeatCheap(graph, forward, [seed]) };
}

function feeds(rows: number) {
  const tensor = (dims: number[], phase: number) => {
    const size = dims.reduce((a, b) => a * b, 1);
    return new ort.Tensor(
      'float32',
      Float32Array.from({ length: size }, (_, i) => Math.cos(i + phase)),
      dims,
    );
  };
  return { x: tensor([2, rows, width], 0), b: tensor([width, 3], 1), dz: tensor([2, rows, 3], 2) };
}

const activations: Record<
  string,
  { act: (make: Builder, h: Value) => Value; forwardOps: string[]; repeated: number }
> = {
  Gelu: { act: (make, h) => make.op('Gelu', [h]), forwardOps: ['Gelu'], repeated: 1 },
  SiLU: {
    act: (make, h) => make.op('Mul', [h, make.op('Sigmoid', [h])]),
    forwardOps: ['Sigmoid', 'Mul'],
    repeated: 2,
  },
  LayerNormalization: {
    act: (make, h) => {
      const gain = Float32Array.from({ length: width }, (_, i) => 1 + Math.cos(i));
      const inputs = [h, make.constant('gain', Tensor.float32(gain, [width]))];
      return make.op('LayerNormalization', inputs, { attributes: { axis: -1 } });
    },
    forwardOps: ['LayerNormalization'],
    repeated: 1,
  },
  // As where heads of queries share keys and values: the narrow source is kept instead.
  Expand: {
    act: (make, h) => {
      const options = { dtype: 'float32', shape: [1, 'rows', width] } as const;
      const narrow = make.op('ReduceSum', [h, make.ints([0])], { ...options, attributes: { keepdims: 1 } });
      return make.op('Expand', [narrow, make.op('Shape', [h])]);
    },
    forwardOps: ['Expand'],
    repeated: 1,
  },
};

/** Attention of two heads with a mask that they share; the gradients of queries, keys and values. */
function attention(): { plain: Model; lean: Model; repeated: number } {
  const graph = new Graph('attention');
  const heads = [2, 2, 'tokens', width];
  const make = new Builder(graph, '/m');
  const [q, k, v] = ['q', 'k', 'v'].map((name) => make.op('Sin', [graph.input(name, 'float32', heads)]));
  const mask = make.op('Log', [graph.input('mask', 'float32', [2, 1, 'tokens', 'tokens'])]);
  const turned = make.op('Transpose', [k!], { attributes: { perm: [0, 1, 3, 2] } });
  const scores = make.op('Mul', [make.op('MatMul', [q!, turned]), make.scalar(0.125)]);
  const probabilities = make.op('Softmax', [make.op('Add', [scores, mask])], { attributes: { axis: -1 } });
  const z = make.op('MatMul', [probabilities, v!]);
  graph.outputs = [z];
  const model = modelOf(graph, 20);
  inferTypes(model);
  const forward = new Set(graph.nodes);
  const seed = new Builder(graph, '/seed').op('Mul', [z, z], { dtype: 'float32', shape: z.shape });
  const gradients = differentiate(graph, [[z, seed]], [q!, k!, v!], { opset: 20 });
  graph.outputs = [q!, k!, v!].map((value, i) => {
    const gradient = gradients.get(value)!;
    gradient.name = `gradient${i}`;
    return gradient;
  });
  const plain = cloneModel(model);
  return { plain, lean: model, repeated: repeatCheap(graph, forward, [seed]) };
}

describe('repeatCheap', () => {
  it('computes the probabilities of attention again, and keeps nothing as wide as they are', async () => {
    const { plain, lean, repeated } = attention();
    // Transpose, product, scale, mask, Softmax.
    expect(repeated).toBe(5);
    const order = executionOrder(lean.graph);
    const seed = order.findIndex((node) => node.name.startsWith('/seed'));
    for (const node of order.slice(0, seed))
      for (const value of node.outputs)
        if (`${value?.shape?.slice(1)}` === '2,tokens,tokens')
          for (const user of value!.users) expect(order.indexOf(user)).toBeLessThan(seed);
    const tokens = 5;
    const tensor = (dims: number[], phase: number) => {
      const size = dims.reduce((a, b) => a * b, 1);
      const values = Float32Array.from({ length: size }, (_, i) => 1.5 + Math.cos(i + phase));
      return new ort.Tensor('float32', values, dims);
    };
    const given = {
      ...Object.fromEntries(['q', 'k', 'v'].map((name, i) => [name, tensor([2, 2, tokens, width], i)])),
      mask: tensor([2, 1, tokens, tokens], 3),
    };
    const [before, after] = [await run(plain, given), await run(lean, given)];
    for (const name of ['gradient0', 'gradient1', 'gradient2'])
      expect(after[name]!.data).toEqual(before[name]!.data);
  });

  it.each(Object.entries(activations))(
    '%s is computed again for the gradients, which stay the same bits',
    async (_, { act, repeated: count }) => {
      const { plain, lean, repeated } = layer(act);
      expect(repeated).toBe(count);
      for (const rows of [5, 0]) {
        const [before, after] = [await run(plain, feeds(rows)), await run(lean, feeds(rows))];
        for (const name of ['gradient0', 'gradient1']) expect(after[name]!.data).toEqual(before[name]!.data);
      }
    },
  );

  it.each(Object.entries(activations))(
    '%s: the first result is free before the backward pass',
    (_, { act, forwardOps }) => {
      const { lean } = layer(act);
      const order = executionOrder(lean.graph);
      const at = (node: Node) => order.indexOf(node);
      const seed = order.findIndex((node) => node.name.startsWith('/seed'));
      const first = order.filter(
        (node) =>
          node.name.startsWith('/m/') && !node.name.endsWith('/again') && forwardOps.includes(node.op),
      );
      expect(first.length).toBe(forwardOps.length);
      for (const node of first) for (const user of node.output.users) expect(at(user)).toBeLessThan(seed);
    },
  );

  it('keeps what does not follow from values that stay', () => {
    // The sum's operands are products that nobody keeps.
    const { repeated } = layer((make, h) =>
      make.op('Add', [make.op('Transpose', [h], { attributes: { perm: [0, 1, 2] } }), h]),
    );
    expect(repeated).toBe(0);
  });
});
