import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { differentiate } from '../../src/autodiff/differentiate.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { cloneModel } from '../../src/onnx/clone.ts';
import { Graph, type Model, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { fuseRotary } from '../../src/passes/fuseRotary.ts';
import { modelOf, run, scaledError } from './models.ts';

const [heads, size, batch, length] = [3, 8, 2, 5];

interface Form {
  /** Angles of each example, or of all alike. */
  readonly positions: 'own' | 'shared';
  readonly halves: 'Slice' | 'Split';
  /** Angles are there twice: joined from two copies, or in a constant. */
  readonly twice: 'Concat' | 'constant';
  readonly differ?: boolean;
}

/** y = x cos + turned(x) sin as transformers' exports have it; x: [batch, heads, length, size]. */
function rotary({ positions, halves, twice, differ = false }: Form): Model {
  const graph = new Graph('rotary');
  const x = graph.input('x', 'float32', ['batch', heads, 'length', size]);
  const ids = graph.input('position_ids', 'int64', [positions === 'own' ? 'batch' : 1, 'length']);
  const make = new Builder(graph, '/attention');
  const frequencies = Array.from({ length: size / 2 }, (_, i) => 10 ** (-(2 * i) / size));
  const vector = make.constant(
    'frequencies',
    Tensor.float32(
      twice === 'Concat' ? frequencies : [...frequencies, ...frequencies.map((f) => (differ ? 2 * f : f))],
    ),
  );
  const column = make.op('Unsqueeze', [make.op('Cast', [ids], { attributes: { to: 1 } }), make.ints([1, 3])]);
  let angle = make.op('Mul', [column, vector]);
  if (twice === 'Concat') angle = make.op('Concat', [angle, angle], { attributes: { axis: -1 } });
  const [cos, sin] = [make.op('Cos', [angle]), make.op('Sin', [angle])];
  const part = (from: number, to: number) =>
    make.op('Slice', [x, make.ints([from]), make.ints([to]), make.ints([3]), make.ints([1])]);
  const [first, second] =
    halves === 'Slice'
      ? [part(0, size / 2), part(size / 2, Number.MAX_SAFE_INTEGER)]
      : make.node('Split', [x, make.ints([size / 2, size / 2])], 2, { attributes: { axis: -1 } }).outputs;
  const turned = make.op('Concat', [make.op('Neg', [second!]), first!], { attributes: { axis: -1 } });
  const y = make.op('Add', [make.op('Mul', [x, cos]), make.op('Mul', [turned, sin])]);
  y.name = 'y';
  y.dtype = 'float32';
  graph.outputs = [y];
  return modelOf(graph);
}

/** Adds the gradient of a weighted sum of y with respect to x as an output. */
function withGradient(model: Model): Model {
  const { graph } = model;
  const find = (name: string) => graph.outputs.find((value) => value.name === name)!;
  const y = find('y');
  const weights = graph.input('weights', 'float32', ['batch', heads, 'length', size]);
  const x = graph.findInput('x')!;
  const gradient: Value = differentiate(graph, [[y, weights]], [x], { opset: 17 }).get(x)!;
  gradient.name = 'dx';
  graph.outputs.push(gradient);
  return model;
}

const dims = [batch, heads, length, size];
const numbers = (seed: number) =>
  new ort.Tensor(
    'float32',
    Float32Array.from({ length: batch * heads * length * size }, (_, i) => Math.sin(1.7 * i + seed)),
    dims,
  );

describe('fuseRotary', () => {
  const forms: readonly Form[] = [
    { positions: 'own', halves: 'Slice', twice: 'Concat' },
    { positions: 'own', halves: 'Split', twice: 'constant' },
    { positions: 'shared', halves: 'Slice', twice: 'constant' },
  ];
  it.each(forms)('%o becomes one operator with the same values and gradient', async (form) => {
    const model = rotary(form);
    const plain = withGradient(cloneModel(model));
    expect(fuseRotary(model)).toBe(1);
    const fused = withGradient(model);
    const rows = form.positions === 'own' ? batch : 1;
    // Rows that start at different positions, as left padding has it.
    const ids = BigInt64Array.from({ length: rows * length }, (_, i) =>
      BigInt((i % length) + (i < length ? 0 : 3)),
    );
    const feeds = {
      x: numbers(1),
      weights: numbers(2),
      position_ids: new ort.Tensor('int64', ids, [rows, length]),
    };
    const [before, after] = [await run(plain, feeds), await run(fused, feeds)];
    expect(fused.graph.nodes.filter(({ op }) => op === 'RotaryEmbedding')).toHaveLength(2);
    // Sums of two products of numbers below 1.
    for (const name of ['y', 'dx']) expect(scaledError(after[name]!, before[name]!)).toBeLessThan(1e-6);
  });

  it('leaves tables whose halves differ', () => {
    expect(fuseRotary(rotary({ positions: 'own', halves: 'Slice', twice: 'constant', differ: true }))).toBe(
      0,
    );
  });
});
