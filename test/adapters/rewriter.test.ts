import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { AdapterSet } from '../../src/adapters/adapterSet.ts';
import { injectGatedLowRank } from '../../src/adapters/lowRank.ts';
import { addBranches } from '../../src/adapters/mergeBranch.ts';
import { openRewriter, parameterInput } from '../../src/adapters/rewriter.ts';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { makeAdapterReady } from '../../src/inference/servingGraph.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph, type Model } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { parameterFeeds } from '../../src/runtime/feeds.ts';
import { adamWStep } from '../../src/training/adamw.ts';
import { modelOf, run } from '../passes/models.ts';

/** OPT-350m ends like this: a projection without a bias straight before the output embedding. */
function twoLayers(): Model {
  const graph = new Graph();
  const make = new Builder(graph, '');
  const layer = (name: string, x: ReturnType<Graph['input']>, weight: readonly number[]) =>
    make.op('MatMul', [x, graph.constant(`${name}.weight`, Tensor.float32(weight, [2, 2]))], {
      name: `${name}/MatMul`,
      dtype: 'float32',
      shape: ['n', 2],
    });
  const x = graph.input('x', 'float32', ['n', 2]);
  const logits = layer('lm_head', layer('project_out', x, [1, 2, 3, 4]), [5, 6, 7, 8]);
  logits.name = 'logits';
  graph.outputs = [logits];
  return modelOf(graph);
}

const A = Float32Array.of(1, -2);
const B = Float32Array.of(3, 0.5);
/** W + A^T B of both layers, and what they make of (1, 2). */
const [first, second] = [
  [1 + 3, 2 + 0.5, 3 - 6, 4 - 1],
  [5 + 3, 6 + 0.5, 7 - 6, 8 - 1],
] as const;
const hidden = [first[0] + 2 * first[2], first[1] + 2 * first[3]];
const expected = [
  hidden[0]! * second[0] + hidden[1]! * second[2],
  hidden[0]! * second[1] + hidden[1]! * second[3],
];
const x = new ort.Tensor('float32', Float32Array.of(1, 2), [1, 2]);

describe('adapters on layers that follow each other directly', () => {
  it('read what the adapted layer before them gives, and the output keeps its name', async () => {
    const model = twoLayers();
    const modules = findLinearModules(model);
    const session = openRewriter(model.graph, new Map(modules.map((module) => [module, module.uses])), {
      budget: { parameters: 0, rank: 1, at: 'final' },
    });
    for (const module of modules)
      session.injectAt(module, (rewriter) => injectGatedLowRank(rewriter, module));
    const feeds: Record<string, ort.Tensor> = { x };
    for (const module of modules) {
      feeds[parameterInput(module, 'lora_A')] = new ort.Tensor('float32', A, [1, 2]);
      feeds[parameterInput(module, 'lora_B')] = new ort.Tensor('float32', B, [1, 2]);
      feeds[parameterInput(module, 'gate')] = new ort.Tensor('float32', [1], [1]);
    }
    const { logits } = await run(model, feeds);
    expect([...(logits!.data as Float32Array)]).toEqual(expected);
  });

  it('do so as branches with constant factors', async () => {
    const model = twoLayers();
    const weights = { rank: 1, in: 2, out: 2, scale: 1, A, B, gate: Float32Array.of(1) };
    const { modules } = addBranches(
      model,
      'model.onnx',
      {},
      {
        modules: new Map(findLinearModules(model).map(({ name }) => [name, weights])),
        saved: new Map(),
        modulesToSave: [],
        baseModel: null,
        taskType: null,
        fanInFanOut: false,
      },
    );
    expect(modules).toEqual(['project_out', 'lm_head']);
    const { logits } = await run(model, { x });
    expect([...(logits!.data as Float32Array)]).toEqual(expected);
  });

  it('do so where a served model takes the factors as inputs', async () => {
    const model = twoLayers();
    const sites = makeAdapterReady([model], {}, ['project_out', 'lm_head']);
    expect(sites).toHaveLength(2);
    const feeds: Record<string, ort.Tensor> = { x };
    for (const { a, b } of sites) {
      feeds[a] = new ort.Tensor('float32', A, [1, 2, 1]);
      feeds[b] = new ort.Tensor('float32', B, [1, 1, 2]);
    }
    const { logits } = await run(model, feeds);
    expect([...(logits!.data as Float32Array)]).toEqual(expected);
  });
});

describe('the output of a layer', () => {
  it('may be replaced by what several nodes make of it', async () => {
    const model = twoLayers();
    const [first] = findLinearModules(model);
    const session = openRewriter(model.graph, new Map([[first!, first!.uses]]), {
      budget: { parameters: 0, rank: 1, at: 'final' },
    });
    session.injectAt(first!, (rewriter) => {
      const y = rewriter.output(first!);
      const shifted = rewriter.op('Add', [y, rewriter.scalar(1)]);
      rewriter.replaceOutput(first!, rewriter.op('Mul', [shifted, rewriter.op('Neg', [y])]));
      return { module: first!, parameters: new Map() };
    });
    const { logits } = await run(model, { x });
    // y = (7, 10) becomes -y (y + 1) = (-56, -110).
    expect([...(logits!.data as Float32Array)]).toEqual([-56 * 5 - 110 * 7, -56 * 6 - 110 * 8]);
  });
});

describe('a layer with one output', () => {
  it('takes its factors as matrices, and its B is decayed as a matrix', async () => {
    const graph = new Graph();
    const y = new Builder(graph, '').op(
      'MatMul',
      [graph.input('x', 'float32', ['n', 2]), graph.constant('score.weight', Tensor.float32([5, 6], [2, 1]))],
      { name: 'score/MatMul', dtype: 'float32', shape: ['n', 1] },
    );
    y.name = 'logits';
    graph.outputs = [y];
    const model = modelOf(graph);
    const [score] = findLinearModules(model);
    const session = openRewriter(model.graph, new Map([[score!, score!.uses]]), {
      budget: { parameters: 0, rank: 2, at: 'final' },
    });
    session.injectAt(score!, (rewriter) => injectGatedLowRank(rewriter, score!));
    const adapters = new AdapterSet([score!], session.parameters, [2], 0);
    adapters.parameter(score!, 'lora_A').set([1, -2, 0.5, 1]);
    adapters.parameter(score!, 'lora_B').set([3, 4]);
    const names = new Set(graph.inputs.map(({ name }) => name));
    const rows = new ort.Tensor('float32', Float32Array.of(1, 2, 3, 4), [2, 2]);
    const { logits } = await run(model, { x: rows, ...parameterFeeds(adapters, names) });
    // x W + (x A^T) B: 17 - 9 + 10 and 39 - 15 + 22.
    expect(logits!.dims).toEqual([2, 1]);
    expect([...(logits!.data as Float32Array)]).toEqual([18, 46]);

    adamWStep(adapters, 1, { learningRate: 0.1, weightDecay: 0.5, groups: {} });
    expect([...adapters.parameter(score!, 'lora_B')]).toEqual([3, 4].map((b) => Math.fround(b * 0.95)));
  });
});
