import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { cloneModel } from '../../src/onnx/clone.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { codeOf, type DType } from '../../src/onnx/dtype.ts';
import { Graph, type Value } from '../../src/onnx/graph.ts';
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

  const size = (make: Builder, x: Value) => make.op('Size', [x]);
  const cast = (make: Builder, x: Value, to: DType) =>
    make.op('Cast', [x], { attributes: { to: codeOf(to) } });
  const int64 = (value: bigint) => new Tensor('int64', [1], new Uint8Array(BigInt64Array.of(value).buffer));
  /** Values that the runtime computes in other ways than JavaScript, from x [3]. */
  const corners: Record<string, (make: Builder, x: Value) => Value> = {
    'integers that wrap around in a cast': (make, x) =>
      make.op('Equal', [cast(make, make.op('Neg', [size(make, x)]), 'uint8'), make.scalar(253, 'uint8')]),
    'integers that wrap around in a sum': (make, x) => {
      const sum = make.op('Add', [cast(make, size(make, x), 'int32'), make.scalar(2 ** 31 - 2, 'int32')]);
      return make.op('Less', [sum, make.scalar(0, 'int32')]);
    },
    'a range of fractions, which adds up rounding errors': (make) =>
      make.op('Range', [make.scalar(0), make.scalar(30), make.scalar(0.1)]),
    'unsigned 64-bit integers': (make, x) => cast(make, cast(make, size(make, x), 'uint64'), 'float32'),
    'integers between the floats': (make, x) => {
      const large = make.constant('large', int64(2n ** 53n + 1n));
      return make.op('Concat', [large, make.op('Shape', [x])], { attributes: { axis: 0 } });
    },
    'two integers that are one float': (make, x) => {
      const [a, b] = [1n, 0n].map((rest) => {
        const large = make.constant('large', int64(2n ** 53n + rest));
        return make.op('Concat', [large, make.op('Shape', [x])], { attributes: { axis: 0 } });
      });
      return make.op('Sub', [a!, b!]);
    },
    'such an integer, repeated': (make) =>
      make.op('ConstantOfShape', [make.ints([2])], { attributes: { value: int64(2n ** 53n + 1n) } }),
    'negative integers under Div and Mod': (make, x) => {
      const five = make.op('Sub', [make.int(-2), size(make, x)]);
      return make.op('Sub', [make.op('Div', [five, make.int(3)]), make.op('Mod', [five, make.int(3)])]);
    },
    'halves, which round to even': (make) =>
      make.op('Round', [make.constant('halves', Tensor.float32([0.5, 1.5, 2.5, -0.5, -1.5, -2.5]))]),
    'the largest integer as the end of a slice': (make, x) =>
      make.op('Slice', [
        x,
        make.ints([1]),
        make.op('Identity', [make.constant('end', int64(2n ** 63n - 1n))]),
      ]),
  };
  it.each(Object.entries(corners))('keeps the bits of %s', async (_, write) => {
    const graph = new Graph();
    const x = graph.input('x', 'float32', [3]);
    const make = new Builder(graph, 't');
    const result = make.op('Identity', [write(make, x)]);
    graph.outputs = [result, make.op('Neg', [x])];
    const before = cloneModel(modelOf(graph));
    fold(modelOf(graph));
    const feeds = feedsFor(graph.inputs, {});
    const [expected, actual] = [
      await run(before, feeds, 'disabled'),
      await run(modelOf(graph), feeds, 'disabled'),
    ];
    expect(actual[result.name]!.data).toEqual(expected[result.name]!.data);
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
