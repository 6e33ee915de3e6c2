import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { cloneModel } from '../../src/onnx/clone.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { Graph, type Model } from '../../src/onnx/graph.ts';
import { gatherPooled } from '../../src/passes/gatherPooled.ts';
import { prepareForTraining } from '../../src/passes/index.ts';
import { inferTypes } from '../../src/passes/inferTypes.ts';
import { feedsFor, fixtures, lengthsOf, modelOf, run } from './models.ts';

/** Largest difference of an output, relative to its largest value. */
async function difference(before: Model, after: Model, name: string): Promise<number> {
  const feeds = feedsFor(before.graph.inputs, lengthsOf(before));
  (feeds.x?.data as Float32Array | undefined)?.forEach((_, i, values) => {
    values[i] = Math.cos(i);
  });
  const [p, q] = await Promise.all([run(before, feeds), run(after, feeds)]);
  expect(q[name]!.dims).toEqual(p[name]!.dims);
  const [a, b] = [p[name]!.data as Float32Array, q[name]!.data as Float32Array];
  const scale = a.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-30);
  return a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - b[i]!)), 0) / scale;
}

/** y = tanh(x W)[:, position], x: [batch, length, 4]. */
function pooled(position: number): Model {
  const graph = new Graph();
  const x = graph.input('x', 'float32', ['batch', 'length', 4]);
  const make = new Builder(graph, 'm');
  const hidden = make.op('Tanh', [make.op('Mul', [x, make.scalar(0.3)])]);
  const y = make.op('Gather', [hidden, make.int(position)], { attributes: { axis: 1 } });
  y.name = 'y';
  graph.outputs = [y];
  const model = modelOf(graph);
  inferTypes(model);
  return model;
}

describe('gatherPooled', () => {
  const encoders = fixtures.filter(([name]) => /^(bert|roberta|distilbert)\/model\.onnx/.test(name));
  it.each(encoders)('%s: the last feed-forward layer sees one position of each row', async (_, path) => {
    const model = readModel(path);
    prepareForTraining(model, { outputs: ['logits'] });
    const before = cloneModel(model);
    expect(gatherPooled(model)).toBe(1);
    const wide = model.graph.nodes.filter(
      (node) => node.op === 'Gelu' && node.output.shape?.includes('sequence_length'),
    );
    expect(wide.length).toBe(1);
    // The same products of fewer rows, which ONNX Runtime blocks otherwise.
    expect(await difference(before, model, 'logits')).toBeLessThan(2e-6);
  });

  it.each([0, 2, -1])('position %d', async (position) => {
    const model = pooled(position);
    const before = cloneModel(model);
    expect(gatherPooled(model)).toBe(1);
    expect(await difference(before, model, 'y')).toBe(0);
  });

  it('leaves a hidden state that is read elsewhere too', () => {
    const model = pooled(0);
    model.graph.outputs.push(model.graph.nodes.find((node) => node.op === 'Gather')!.inputs[0]!);
    const ops = model.graph.nodes.map((node) => node.op);
    expect(gatherPooled(model)).toBe(0);
    expect(model.graph.nodes.map((node) => node.op)).toEqual(ops);
  });
});
