import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { cloneModel } from '../../src/onnx/clone.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { Graph, type Model, type Value } from '../../src/onnx/graph.ts';
import { fold } from '../../src/passes/fold.ts';
import { fuseGelu } from '../../src/passes/fuseGelu.ts';
import { feedsFor, fixtures, lengthsOf, modelOf, run } from './models.ts';

const c = Math.sqrt(2 / Math.PI);

/** A model y = form(x) of a vector, written by `form`. */
function activation(form: (make: Builder, x: Value) => Value): Model {
  const graph = new Graph('activation');
  const x = graph.input('x', 'float32', [9]);
  const y = form(new Builder(graph, '/act'), x);
  y.name = 'y';
  y.dtype = 'float32';
  graph.outputs = [y];
  return modelOf(graph, 17);
}

const forms: Record<string, (make: Builder, x: Value) => Value> = {
  'erf, as transformers has it': (make, x) => {
    const erf = make.op('Erf', [make.op('Div', [x, make.scalar(1.4142135381698608)])]);
    const sum = make.op('Add', [erf, make.scalar(1)]);
    return make.op('Mul', [make.op('Mul', [x, sum]), make.scalar(0.5)]);
  },
  'erf, halved first': (make, x) => {
    const erf = make.op('Erf', [make.op('Mul', [x, make.scalar(Math.SQRT1_2)])]);
    return make.op('Mul', [make.op('Add', [make.scalar(1), erf]), make.op('Mul', [make.scalar(0.5), x])]);
  },
  gelu_new: (make, x) => {
    const cube = make.op('Mul', [make.op('Pow', [x, make.scalar(3)]), make.scalar(0.044715)]);
    const tanh = make.op('Tanh', [make.op('Mul', [make.op('Add', [x, cube]), make.scalar(c)])]);
    const half = make.op('Mul', [x, make.scalar(0.5)]);
    return make.op('Mul', [half, make.op('Add', [tanh, make.scalar(1)])]);
  },
  'gelu_fast: x c (1 + k x x)': (make, x) => {
    const inner = make.op('Add', [
      make.op('Mul', [make.op('Mul', [x, make.scalar(0.044715)]), x]),
      make.scalar(1),
    ]);
    const tanh = make.op('Tanh', [make.op('Mul', [make.op('Mul', [x, make.scalar(0.79788456)]), inner])]);
    return make.op('Mul', [make.op('Mul', [make.scalar(0.5), x]), make.op('Add', [make.scalar(1), tanh])]);
  },
};

const points = Float32Array.of(-6, -2, -1, -0.25, 0, 0.5, 1, 3, 7);
const feeds = { x: new ort.Tensor('float32', points, [9]) };

function largest(a: ort.Tensor, b: ort.Tensor): number {
  const [p, q] = [a.data as Float32Array, b.data as Float32Array];
  return p.reduce((worst, value, i) => Math.max(worst, Math.abs(value - q[i]!)), 0);
}

describe('fuseGelu', () => {
  it.each(Object.entries(forms))('%s becomes one Gelu with the same values', async (_, form) => {
    const model = activation(form);
    const before = await run(cloneModel(model), feeds);
    expect(fuseGelu(model)).toBe(1);
    expect(model.graph.nodes.map((node) => node.op)).toEqual(['Gelu']);
    const after = await run(model, feeds);
    // Two float32 evaluations of values up to 7: a few units in the last place.
    expect(largest(before.y!, after.y!)).toBeLessThan(4e-6);
  });

  it('leaves a graph that cannot have the operator set which knows Gelu', () => {
    const model = activation((make, x) => {
      const y = forms.gelu_new!(make, x);
      const image = make.op('Reshape', [y, make.ints([1, 1, 3, 3])]);
      return make.op('Resize', [image, null, null, make.ints([1, 1, 3, 3])]);
    });
    expect(fuseGelu(model)).toBe(0);
    expect(model.opsets.get('')).toBe(17);
  });

  it('leaves what only looks like it', () => {
    const other: Record<string, (make: Builder, x: Value) => Value> = {
      'another slope': (make, x) => {
        const erf = make.op('Erf', [make.op('Mul', [x, make.scalar(0.7)])]);
        return make.op('Mul', [make.op('Mul', [x, make.scalar(0.5)]), make.op('Add', [erf, make.scalar(1)])]);
      },
      'another constant': (make, x) => {
        const erf = make.op('Erf', [make.op('Mul', [x, make.scalar(Math.SQRT1_2)])]);
        return make.op('Mul', [make.op('Mul', [x, make.scalar(0.5)]), make.op('Add', [erf, make.scalar(2)])]);
      },
      'another factor': (make, x) => {
        const erf = make.op('Erf', [make.op('Mul', [x, make.scalar(Math.SQRT1_2)])]);
        const wide = make.op('Mul', [make.op('Neg', [x]), make.scalar(0.5)]);
        return make.op('Mul', [wide, make.op('Add', [erf, make.scalar(1)])]);
      },
    };
    for (const form of Object.values(other)) {
      const model = activation(form);
      const ops = model.graph.nodes.map((node) => node.op);
      expect(fuseGelu(model)).toBe(0);
      expect(model.graph.nodes.map((node) => node.op)).toEqual(ops);
      expect(model.opsets.get('')).toBe(17);
    }
  });

  const exports = fixtures.filter(([name]) =>
    /^(gpt2|bert|roberta|distilbert|gpt-neox)[^/]*\/model\.onnx/.test(name),
  );
  it.each(exports)('%s: every layer, the same outputs', async (_, path) => {
    const model = readModel(path);
    fold(model);
    const inputs = feedsFor(model.graph.inputs, lengthsOf(model));
    const before = await run(cloneModel(model), inputs);
    expect(fuseGelu(model)).toBe(2);
    expect(
      model.graph.nodes.some(
        (node) => ['Erf', 'Tanh'].includes(node.op) && /mlp|intermediate/.test(node.name),
      ),
    ).toBe(false);
    const after = await run(model, inputs);
    for (const [name, value] of Object.entries(before))
      expect(largest(value, after[name]!)).toBeLessThan(1e-5);
  });
});
