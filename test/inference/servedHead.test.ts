import * as ort from 'onnxruntime-node';
import { expect, it } from 'vitest';
import type { LoadedPeftAdapter } from '../../src/adapters/peft.ts';
import { fitAdapter, stackedFeeds } from '../../src/inference/servedAdapter.ts';
import { makeAdapterReady } from '../../src/inference/servingGraph.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { modelOf, run } from '../passes/models.ts';

it.each(['initializer', 'Constant node', 'none'])(
  "a head that an adapter brings takes the place of the model's, bias: %s",
  async (stored) => {
    const graph = new Graph();
    const make = new Builder(graph, '');
    const x = graph.input('x', 'float32', ['n', 2]);
    const weight = graph.constant('classifier.weight', Tensor.float32([1, 2, 3, 4, 5, 6], [2, 3]));
    const bias = Tensor.float32([10, 20, 30]);
    const identity = graph.constant('dense.weight', Tensor.float32([1, 0, 0, 1], [2, 2]));
    const hidden = make.op('MatMul', [x, identity], { name: 'dense/MatMul' });
    let logits = make.op('MatMul', [hidden, weight], { name: 'classifier/MatMul' });
    if (stored !== 'none')
      logits = make.op('Add', [
        logits,
        stored === 'initializer'
          ? graph.constant('classifier.bias', bias)
          : make.op('Constant', [], { attributes: { value: bias } }),
      ]);
    Object.assign(logits, { name: 'logits', dtype: 'float32', shape: ['n', 3] });
    graph.outputs = [logits];
    const model = modelOf(graph);
    const sites = makeAdapterReady([model], {}, 'all-linear');
    const adapter: LoadedPeftAdapter = {
      folder: '',
      peftType: 'LORA',
      config: {},
      modules: new Map(),
      saved: new Map([
        ['classifier.weight', Tensor.float32([1, 0, 0, 1, 1, 1], [3, 2])],
        ['classifier.bias', Tensor.float32([0.5, 0.25, -1])],
      ]),
      modulesToSave: ['classifier'],
      baseModel: null,
      taskType: null,
      fanInFanOut: false,
    };
    const results = await run(model, {
      x: new ort.Tensor('float32', Float32Array.of(2, 3), [1, 2]),
      ...stackedFeeds(sites, [fitAdapter(adapter, sites, {})]),
    });
    expect([...(results.logits!.data as Float32Array)]).toEqual([2.5, 3.25, 4]);
  },
);
