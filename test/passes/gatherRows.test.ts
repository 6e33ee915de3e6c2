import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { Graph, type Model, type Value } from '../../src/onnx/graph.ts';
import { gatherRows } from '../../src/passes/gatherRows.ts';
import { prepareForTraining } from '../../src/passes/index.ts';
import { keepOutputs } from '../../src/passes/prune.ts';
import { adapt } from './adapt.ts';
import { type Feeds, feedsFor, fixtures, lengthsOf, modelOf, run } from './models.ts';

const decoders = fixtures.filter(([name]) => !/fp16|bert|kv|merged/.test(name));

/** Rows 3, 9, 3 and 0 of the output, once gathered at the end and once by the pass; and where it gathered. */
async function both(model: Model, feeds: Feeds, outputName: string, chosen = [3, 9, 3, 0]) {
  const output = model.graph.outputs.find((value) => value.name === outputName)!;
  const full = (await run(model, feeds))[outputName]!;
  const width = full.dims.at(-1)!;
  const expected = chosen.flatMap((row) =>
    Array.from((full.data as Float32Array).subarray(row * width, (row + 1) * width)),
  );
  const rows = model.graph.input('rows', 'int64', ['labels']);
  const selection = gatherRows(model, output, rows);
  model.graph.outputs = [selection.output];
  keepOutputs(model.graph, [selection.output.name]);
  feeds.rows = new ort.Tensor('int64', BigInt64Array.from(chosen, BigInt), [chosen.length]);
  const actual = (await run(model, feeds))[selection.output.name]!;
  expect(actual.dims).toEqual([chosen.length, width]);
  const scale = Math.max(...expected.map(Math.abs), 1e-30);
  const error =
    Math.max(0, ...expected.map((x, i) => Math.abs(x - (actual.data as Float32Array)[i]!))) / scale;
  return { error, gathered: selection.gathered };
}

describe('gatherRows', () => {
  it.each(decoders)('%s: gathers below the last feed-forward layer, exactly', async (_, path) => {
    const model = readModel(path);
    prepareForTraining(model, { outputs: ['logits'] });
    const feeds = feedsFor(model.graph.inputs, lengthsOf(model));
    const { error, gathered } = await both(model, feeds, 'logits');
    // The same products; ONNX Runtime blocks them by the number of rows, which moves the last bits.
    expect(error).toBeLessThan(2e-6);
    // The block's input, the attention's output before its projection, and nothing else.
    expect(gathered.length).toBe(2);
  });

  it.each(['rank', 'example'] as const)('crosses adapters with a gate per %s', async (gate) => {
    for (const wanted of ['llama/model.onnx', 'gpt2/model.onnx', 'gpt2-dynamo/model.onnx']) {
      const model = readModel(fixtures.find(([name]) => name === wanted)![1]);
      prepareForTraining(model, { outputs: ['logits'] });
      const feeds = feedsFor(model.graph.inputs, lengthsOf(model));
      adapt(model, gate, feeds);
      const { error, gathered } = await both(model, feeds, 'logits');
      expect(error).toBeLessThan(2e-6);
      expect(gathered.length).toBe(2);
    }
  });

  it('works with no rows at all', async () => {
    const model = readModel(decoders[0]![1]);
    prepareForTraining(model, { outputs: ['logits'] });
    const feeds = feedsFor(model.graph.inputs, lengthsOf(model));
    const { error } = await both(model, feeds, 'logits', []);
    expect(error).toBe(0);
  });

  it('gathers a value that others need whole where it is', async () => {
    const graph = new Graph();
    const x = graph.input('x', 'float32', ['batch', 'length', 4]);
    const make = new Builder(graph, 'm');
    const hidden = make.op('Tanh', [x]);
    const mixed = make.op('ReduceSum', [hidden, make.ints([1])]);
    graph.outputs = [make.op('Add', [hidden, mixed])];
    const output = graph.outputs[0]!;
    const model = modelOf(graph);
    const feeds = feedsFor(graph.inputs, lengthsOf(model));
    (feeds.x!.data as Float32Array).set(Float32Array.from({ length: 40 }, (_, i) => Math.cos(i)));
    const { error, gathered } = await both(model, feeds, output.name);
    expect(error).toBe(0);
    expect(gathered).toEqual([hidden]);
  });

  it('chooses examples of an output [batch, classes]', async () => {
    const model = readModel(fixtures.find(([name]) => name === 'bert/model.onnx')![1]);
    prepareForTraining(model, { outputs: ['logits'] });
    const { error } = await both(model, feedsFor(model.graph.inputs, lengthsOf(model)), 'logits', [1, 0, 1]);
    expect(error).toBeLessThan(2e-6);
  });

  it('gathers the output itself where its lengths have no names', async () => {
    const graph = new Graph();
    const x = graph.input('x', 'float32', [null, null, 4]);
    graph.outputs = [new Builder(graph, 'm').op('Relu', [x])];
    const y = graph.outputs[0]!;
    const feeds: Feeds = {
      x: new ort.Tensor(
        'float32',
        Float32Array.from({ length: 40 }, (_, i) => Math.cos(i)),
        [2, 5, 4],
      ),
    };
    const { error, gathered } = await both(modelOf(graph), feeds, y.name);
    expect(error).toBe(0);
    expect(gathered).toEqual([y]);
  });

  it('refuses an output whose rank is not known', () => {
    const graph = new Graph();
    const make = new Builder(graph, 'm');
    const y: Value = make.op('Unheard', [graph.input('x', 'float32', [null])], { domain: 'com.example' });
    graph.outputs = [y];
    const rows = graph.input('rows', 'int64', ['labels']);
    expect(() => gatherRows(modelOf(graph), y, rows)).toThrowError(
      expect.objectContaining({ code: 'MODEL_ROWS', kind: 'model' }),
    );
  });
});
