import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { differentiate } from '../../src/autodiff/differentiate.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { cloneModel } from '../../src/onnx/clone.ts';
import { type Dim, Graph, type Model, type Value } from '../../src/onnx/graph.ts';
import { inferTypes } from '../../src/passes/inferTypes.ts';
import { stackQueries } from '../../src/passes/stackQueries.ts';
import { modelOf, run, scaledError } from './models.ts';

const [batch, groups, repeats, length, size] = [2, 2, 3, 5, 4];
const heads = groups * repeats;

interface Form {
  /** Where the scores are scaled: the product, or both of its operands, as torch's scaled_dot_product_attention has it. */
  readonly scale: 'Mul' | 'Div' | 'operands';
  /** Along which axis of [batch, groups, length, size] keys and values are repeated: 2 gives every head its group's. */
  readonly axis: 1 | 2;
}

/** softmax(q k^T scale) v as transformers' exports have it, keys and values repeated for the heads of a group. */
function attention({ scale, axis }: Form): Model {
  const graph = new Graph('attention');
  const make = new Builder(graph, '/attention');
  const input = (name: string, count: number) =>
    graph.input(name, 'float32', ['batch', count, 'length', size]);
  const shape = make.op('Shape', [input('query', heads)]);
  const lengthOf = (place: number) =>
    make.op('Gather', [shape, make.ints([place])], { attributes: { axis: 0 } });
  const target = (...parts: (number | Value)[]) =>
    make.op(
      'Concat',
      parts.map((part) => (typeof part === 'number' ? make.ints([part]) : part)),
      { attributes: { axis: 0 } },
    );
  const [rows, columns] = [lengthOf(0), lengthOf(2)];
  const between = axis === 2 ? [groups, repeats] : [repeats, groups];
  const repeat = (x: Value) => {
    const wide = make.op('Unsqueeze', [x, make.ints([axis])]);
    const expanded = make.op('Expand', [wide, target(rows, ...between, columns, size)]);
    return make.op('Reshape', [expanded, target(rows, heads, columns, size)]);
  };
  const scaled = (x: Value, factor: number) => make.op('Mul', [x, make.scalar(factor)]);
  const query = graph.inputs[0]!;
  const keys = make.op('Transpose', [repeat(input('key', groups))], { attributes: { perm: [0, 1, 3, 2] } });
  let scores = make.op(
    'MatMul',
    scale === 'operands' ? [scaled(query, 0.7), scaled(keys, 0.7)] : [query, keys],
  );
  if (scale !== 'operands') scores = make.op(scale, [scores, make.scalar(scale === 'Mul' ? 0.5 : 2)]);
  const weights = make.op('Softmax', [scores], { attributes: { axis: -1 } });
  const y = make.op('MatMul', [weights, repeat(input('value', groups))]);
  y.name = 'y';
  graph.outputs = [y];
  const model = modelOf(graph);
  inferTypes(model);
  return model;
}

/** Adds the gradients of a weighted sum of y as outputs. */
function withGradients(model: Model): Model {
  const { graph } = model;
  const inputs = [...graph.inputs];
  const y = graph.findOutput('y')!;
  const dy = graph.input('dy', 'float32', y.shape as Dim[]);
  const gradients = differentiate(graph, [[y, dy]], inputs, { opset: 17 });
  for (const { name } of inputs) {
    const gradient = gradients.get(graph.findInput(name)!)!;
    gradient.name = `${name}.gradient`;
    graph.outputs.push(gradient);
  }
  return model;
}

const tensor = (count: number, seed: number) => {
  const dims = [batch, count, length, size];
  const values = Float32Array.from({ length: batch * count * length * size }, (_, i) =>
    Math.sin(1.7 * i + seed),
  );
  return new ort.Tensor('float32', values, dims);
};
const feeds = {
  query: tensor(heads, 1),
  key: tensor(groups, 2),
  value: tensor(groups, 3),
  dy: tensor(heads, 4),
};

describe('stackQueries', () => {
  it.each(['Mul', 'Div', 'operands'] as const)(
    'scale by %s: keys and values are read as they are, with the same values and gradients',
    async (scale) => {
      const model = attention({ scale, axis: 2 });
      const plain = withGradients(cloneModel(model));
      expect(stackQueries(model)).toBe(2);
      expect(model.graph.nodes.filter(({ op }) => op === 'Expand')).toEqual([]);
      const stacked = withGradients(model);
      const [before, after] = [await run(plain, feeds), await run(stacked, feeds)];
      expect(Object.keys(after)).toEqual(['y', 'query.gradient', 'key.gradient', 'value.gradient']);
      for (const [name, expected] of Object.entries(before)) {
        expect(after[name]!.dims).toEqual(expected.dims);
        // Sums of at most fifteen products of numbers below 1, in another order.
        expect(scaledError(after[name]!, expected)).toBeLessThan(1e-6);
      }
    },
  );

  it('leaves keys that are repeated in another order', () => {
    expect(stackQueries(attention({ scale: 'Mul', axis: 1 }))).toBe(0);
  });
});
