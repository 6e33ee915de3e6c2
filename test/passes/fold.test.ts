import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { Graph } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { fold } from '../../src/passes/fold.ts';
import { feedsFor, fixtures, lengthsOf, modelOf, run } from './models.ts';

describe('fold', () => {
  it.each(fixtures)('%s: no more nodes, the same bits', async (name, path) => {
    const model = readModel(path);
    const feeds = feedsFor(model.graph.inputs, lengthsOf(model));
    const before = model.graph.nodes.length;
    fold(model);
    expect(model.graph.nodes.length).toBeLessThanOrEqual(before);
    // Without ONNX Runtime's fusions, which depend on details of the graph and round differently. On the CPU it
    // does not load an fp16 graph wholly unoptimised.
    const level = name.includes('fp16') ? 'basic' : 'disabled';
    const expected = await run(path, feeds, level);
    const actual = await run(model, feeds, level);
    for (const [output, tensor] of Object.entries(expected))
      expect(actual[output]!.data).toEqual(tensor.data);
  });

  it('removes the shape arithmetic of a torchscript export', () => {
    const [, path] = fixtures.find(([name]) => name === 'llama/model.onnx')!;
    const model = readModel(path);
    fold(model);
    expect(model.graph.nodes.length).toBeLessThan(200);
    expect(model.graph.nodes.some((node) => node.op === 'Constant' || node.op === 'ConstantOfShape')).toBe(
      false,
    );
  });

  it('gives Reshape a constant target that copies named lengths', () => {
    const graph = new Graph();
    const x = graph.input('x', 'float32', ['batch', 'length', 32]);
    const make = new Builder(graph, 't');
    const shape = make.op('Shape', [x]);
    const batch = make.op('Slice', [shape, make.ints([0]), make.ints([1])]);
    const length = make.op('Slice', [shape, make.ints([1]), make.ints([2])]);
    const target = make.op('Concat', [batch, length, make.ints([4]), make.ints([-1])], {
      attributes: { axis: 0 },
    });
    const y = make.op('Reshape', [x, target]);
    graph.outputs = [y];
    fold(modelOf(graph));
    expect(graph.nodes.map((node) => node.op)).toEqual(['Reshape']);
    expect(graph.nodes[0]!.inputs[1]!.initializer!.toNumbers()).toEqual([0, 0, 4, -1]);
    expect(y.shape).toEqual(['batch', 'length', 4, 8]);
  });

  it('keeps weights, and casts of weights, as they are', () => {
    const graph = new Graph();
    const weight = graph.constant('w', Tensor.of('float16', new Float32Array(64 * 64), [64, 64]));
    const make = new Builder(graph, 't');
    const cast = make.op('Cast', [weight], { attributes: { to: 1 } });
    graph.outputs = [make.op('MatMul', [graph.input('x', 'float32', ['n', 64]), cast])];
    fold(modelOf(graph));
    expect(graph.nodes.map((node) => node.op)).toEqual(['Cast', 'MatMul']);
  });

  it('rounds folded scalars as the runtime does', () => {
    const graph = new Graph();
    const make = new Builder(graph, 't');
    const x = graph.input('x', 'float32', ['n', 24]);
    const width = make.op('Gather', [make.op('Shape', [x]), make.int(1)], { attributes: { axis: 0 } });
    const root = make.op('Sqrt', [make.op('Cast', [width], { attributes: { to: 1 } })]);
    graph.outputs = [make.op('Div', [x, root])];
    fold(modelOf(graph));
    expect(graph.nodes.map((node) => node.op)).toEqual(['Div']);
    expect(graph.nodes[0]!.inputs[1]!.initializer!.toNumbers()).toEqual([Math.fround(Math.sqrt(24))]);
  });

  it('drops dropout, no-op casts and full slices', () => {
    const graph = new Graph();
    const make = new Builder(graph, 't');
    const x = graph.input('x', 'float32', ['n', 4]);
    const dropped = make.op('Dropout', [x, make.scalar(0.1)]);
    const cast = make.op('Cast', [dropped], { attributes: { to: 1 } });
    const sliced = make.op('Slice', [cast, make.ints([0]), make.ints([2 ** 63]), make.ints([0])]);
    graph.outputs = [make.op('Relu', [sliced])];
    fold(modelOf(graph));
    expect(graph.nodes.map((node) => node.op)).toEqual(['Relu']);
    expect(graph.nodes[0]!.inputs).toEqual([x]);
  });
});
