import * as ort from 'onnxruntime-node';
import { expect, it } from 'vitest';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { trainInFull } from '../../src/runtime/trainedHead.ts';
import { modelOf, run } from '../passes/models.ts';

it.each(['one constant', 'a copy'])(
  'a layer that trains in full leaves the norm behind it its own bias: %s',
  async (stored) => {
    const graph = new Graph();
    const make = new Builder(graph, '');
    const zeros = () => graph.constant('bias', Tensor.float32([0, 0]));
    const bias = zeros();
    const x = graph.input('x', 'float32', ['n', 2]);
    const weight = graph.constant('dense.weight', Tensor.float32([1, 2, 3, 4], [2, 2]));
    const hidden = make.op('Gemm', [x, weight, bias], { name: 'dense/Gemm' });
    const ones = graph.constant('norm.weight', Tensor.float32([1, 1]));
    graph.outputs = [
      make.op('LayerNormalization', [hidden, ones, stored === 'a copy' ? zeros() : bias]),
      hidden,
    ];
    const model = modelOf(graph);
    const [dense] = findLinearModules(model);
    trainInFull(graph, dense!);
    const [norm, sum] = graph.outputs;
    const results = await run(model, {
      x: new ort.Tensor('float32', Float32Array.of(1, 1), [1, 2]),
      'dense.weight': new ort.Tensor('float32', Float32Array.of(1, 2, 3, 4), [2, 2]),
      'dense.bias': new ort.Tensor('float32', Float32Array.of(10, 20), [2]),
    });
    expect([...(results[sum!.name]!.data as Float32Array)]).toEqual([14, 26]);
    // Of two numbers the norm makes -1 and 1.
    const [low, high] = results[norm!.name]!.data as Float32Array;
    expect(low).toBeCloseTo(-1, 5);
    expect(high).toBeCloseTo(1, 5);
  },
);
