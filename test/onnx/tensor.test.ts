import { describe, expect, it } from 'vitest';
import { attribute } from '../../src/onnx/builder.ts';
import { decodeModel } from '../../src/onnx/decode.ts';
import type { DType } from '../../src/onnx/dtype.ts';
import { encodeModel } from '../../src/onnx/encode.ts';
import { Graph, Node } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import fc from '../fastCheck.ts';

/** The integers that each type holds exactly and JavaScript too. */
const integers: readonly (readonly [DType, number, number])[] = [
  ['int4', -8, 7],
  ['uint4', 0, 15],
  ['int8', -128, 127],
  ['uint8', 0, 255],
  ['int16', -(2 ** 15), 2 ** 15 - 1],
  ['uint16', 0, 2 ** 16 - 1],
  ['int32', -(2 ** 31), 2 ** 31 - 1],
  ['uint32', 0, 2 ** 32 - 1],
  ['int64', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
  ['uint64', 0, Number.MAX_SAFE_INTEGER],
];

describe('tensors', () => {
  it.each(integers)('%s numbers come back', (dtype, min, max) => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min, max }), { maxLength: 5 }), (values) => {
        expect(Tensor.of(dtype, values, [values.length]).toNumbers()).toEqual(values);
      }),
    );
  });

  it.each(['float16', 'bfloat16'] as const)('every %s comes back from the float32 that it is', (dtype) => {
    const patterns = Uint16Array.from({ length: 2 ** 16 }, (_, i) => i);
    const floats = new Tensor(dtype, [2 ** 16], new Uint8Array(patterns.buffer)).toFloat32();
    const back = new Uint16Array(Tensor.of(dtype, floats, [2 ** 16]).bytes().buffer);
    // NaN has many patterns, of which one is written.
    const changed = patterns.filter((pattern, i) => back[i] !== pattern && !Number.isNaN(floats[i]));
    expect([...changed]).toEqual([]);
  });

  it.each([
    ['float16', 1 + 2 ** -11, 1],
    ['float16', 1 + 3 * 2 ** -11, 1 + 2 ** -9],
    ['float16', 2 ** -25, 0],
    ['float16', 3 * 2 ** -25, 2 ** -23],
    ['float16', 65519.996, 65504],
    ['float16', 65520, Number.POSITIVE_INFINITY],
    ['bfloat16', 1 + 2 ** -8, 1],
    ['bfloat16', 1 + 3 * 2 ** -8, 1 + 2 ** -6],
    ['bfloat16', 3.4e38, Number.POSITIVE_INFINITY],
  ] as const)('%s rounds %f to the nearest, ties to even', (dtype, value, rounded) => {
    expect(Tensor.of(dtype, [value, -value], [2]).toNumbers()).toEqual([rounded, -rounded]);
  });

  it('ends int64 at the ends of the type and truncates fractions', () => {
    const values = Tensor.int64([2 ** 63, -(2 ** 63), 1.9, -1.9]);
    expect([...new BigInt64Array(values.bytes().buffer)]).toEqual([2n ** 63n - 1n, -(2n ** 63n), 1n, -1n]);
  });
});

it('refuses bytes that are no model, whether they lie in a file or not', () => {
  expect(() => decodeModel(Uint8Array.of(1, 2, 3), 'memory')).toThrow(
    expect.objectContaining({ code: 'MODEL_UNREADABLE' }),
  );
});

describe('attributes', () => {
  it('take their type from the value, an empty list that of integers', () => {
    expect(attribute([])).toEqual({ type: 'ints', value: [] });
    expect(attribute([1, 2])).toEqual({ type: 'ints', value: [1, 2] });
    expect(attribute([1, 0.5])).toEqual({ type: 'floats', value: [1, 0.5] });
    expect(attribute(['a'])).toEqual({ type: 'strings', value: ['a'] });
    expect(attribute(0.5)).toEqual({ type: 'float', value: 0.5 });
    expect(attribute({ type: 'float', value: 1 })).toEqual({ type: 'float', value: 1 });
  });

  it('come back from a file', () => {
    const graph = new Graph();
    const given = {
      int: attribute(-3),
      ends: attribute([-(2 ** 63), 2 ** 63]),
      float: attribute(0.5),
      floats: attribute([0.25, 2]),
      text: attribute('ä'),
      texts: attribute(['a', '']),
      none: attribute([]),
    };
    const x = graph.input('x', 'float32', ['n', 3, null]);
    const node = new Node('Anything', 'some.domain', 'n', [x, null, x], [graph.value('y')]);
    for (const [name, value] of Object.entries(given)) node.setAttribute(name, value);
    node.metadata = new Map([['key', 'value']]);
    graph.outputs = [graph.add(node).output];
    const opsets = new Map([
      ['', 17],
      ['some.domain', 1],
    ]);
    const model = { irVersion: 8, opsets, graph, producer: 'test', metadata: new Map([['a', 'b']]) };
    const back = decodeModel(encodeModel(model), 'memory');
    const [again] = back.graph.nodes;
    expect(Object.fromEntries(again!.attributes)).toEqual(given);
    expect(again!.inputs.map((value) => value?.name)).toEqual(['x', undefined, 'x']);
    expect(again!.metadata).toEqual(node.metadata);
    expect(back.graph.inputs[0]).toMatchObject({ dtype: 'float32', shape: ['n', 3, null] });
    expect({ ...back, graph: null }).toEqual({ ...model, graph: null });
  });
});
