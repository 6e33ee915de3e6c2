import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { type Dim, Graph, type Value } from '../../src/onnx/graph.ts';
import { inferTypes } from '../../src/passes/inferTypes.ts';
import { evaluate } from '../../src/passes/symbolic.ts';
import { feedsFor, fixtures, lengthsOf, modelOf, run } from './models.ts';

describe('inferTypes', () => {
  it.each(fixtures)('%s: every inferred type is what ONNX Runtime computes', async (_, path) => {
    const model = readModel(path);
    inferTypes(model);
    const { graph } = model;
    const values = graph.nodes.flatMap((node) => node.outputs).filter((value) => value !== null);
    // A cache's length and that of its mask have unrelated names, so the masked scores' last length is open.
    const cached = graph.inputs.some((input) => /past/.test(input.name));
    const untyped = values.filter(
      (value) => !value.dtype || !value.shape || (!cached && value.shape.includes(null)),
    );
    expect(
      untyped.map((value) => `${value.producer?.op} ${value.name} ${value.dtype} ${value.shape}`),
    ).toEqual([]);

    const lengths = lengthsOf(model, 2, 5);
    graph.outputs = values;
    const results = await run(model, feedsFor(graph.inputs, lengths), 'disabled');
    const wrong = values.flatMap((value) => {
      const { type, dims } = results[value.name]!;
      const shape = value.shape!.map((dim, axis) => (dim === null ? dims[axis]! : evaluate(dim, lengths)));
      const right = type === value.dtype && `${dims}` === `${shape}`;
      return right
        ? []
        : [`${value.producer?.op} ${value.name}: ${value.dtype}[${value.shape}] is ${type}[${dims}]`];
    });
    expect(wrong).toEqual([]);
  });

  /** The inferred shape of what `make` builds on x float32 [batch, length, 12]. */
  function shapeOf(make: (b: Builder, x: Value) => Value): readonly Dim[] | null {
    const graph = new Graph();
    const x = graph.input('x', 'float32', ['batch', 'length', 12]);
    const y = make(new Builder(graph, 't'), x);
    graph.outputs = [y];
    inferTypes(modelOf(graph));
    return y.shape;
  }
  const lengthOf = (b: Builder, x: Value) =>
    b.op('Gather', [b.op('Shape', [x]), b.ints([1])], { attributes: { axis: 0 } });

  it('divides the open length of a Reshape symbolically', () => {
    expect(shapeOf((b, x) => b.op('Reshape', [x, b.ints([-1, 12])]))).toEqual(['batch*length', 12]);
    expect(shapeOf((b, x) => b.op('Reshape', [x, b.ints([0, -1, 3])]))).toEqual(['batch', '4*length', 3]);
    expect(shapeOf((b, x) => b.op('Reshape', [x, b.ints([-1, 24])]))).toEqual([null, 24]);
  });

  it("follows an Expand target through torch's Where(shape == -1, 1, shape)", () => {
    const shape = shapeOf((b, x) => {
      const target = b.op('Concat', [lengthOf(b, x), b.ints([-1])], { attributes: { axis: 0 } });
      const open = b.op('Equal', [target, b.ints([-1, -1])]);
      return b.op('Expand', [b.scalar(0), b.op('Where', [open, b.ints([1, 1]), target])]);
    });
    expect(shape).toEqual(['length', 1]);
  });

  it('slices named lengths where the result is certain', () => {
    const slice = (start: (b: Builder, x: Value) => Value, end: (b: Builder, x: Value) => Value) =>
      shapeOf((b, x) => b.op('Slice', [x, start(b, x), end(b, x), b.ints([1])]))![1];
    const all = (b: Builder) => b.ints([2 ** 63]);
    expect(slice((b) => b.ints([0]), all)).toBe('length');
    expect(slice((b) => b.ints([1]), all)).toBe('length - 1');
    expect(slice((b) => b.ints([-1]), all)).toBe(1);
    expect(
      slice(
        (b) => b.ints([0]),
        (b) => b.ints([-1]),
      ),
    ).toBe('length - 1');
    expect(
      slice(
        (b) => b.ints([0]),
        (b) => b.ints([7]),
      ),
    ).toBeNull();
    expect(slice(lengthOf, (b, x) => b.op('Add', [lengthOf(b, x), lengthOf(b, x)]))).toBe(0);
  });

  it('leaves open what broadcasting two names gives', () => {
    expect(shapeOf((b, x) => b.op('Add', [x, b.graph.input('y', 'float32', ['rows', 'length', 1])]))).toEqual(
      [null, 'length', 12],
    );
  });

  it('leaves unknown operators untyped', () => {
    expect(shapeOf((b, x) => b.op('Unheard', [x], { domain: 'com.example' }))).toBeNull();
  });
});
