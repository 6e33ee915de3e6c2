import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { Graph } from '../../src/onnx/graph.ts';
import { raiseOpset } from '../../src/passes/raiseOpset.ts';
import { feedsFor, fixtures, lengthsOf, modelOf, run } from './models.ts';

describe('raiseOpset', () => {
  it.each(fixtures.filter(([name]) => /^(llama|gpt2|phi3)\/model.onnx/.test(name)))(
    '%s computes the same bits under opset 21',
    async (_, path) => {
      const model = readModel(path);
      expect(model.opsets.get('')).toBe(17);
      raiseOpset(model, 21);
      expect(model.opsets.get('')).toBe(21);
      const feeds = feedsFor(model.graph.inputs, lengthsOf(model));
      const [expected, actual] = [await run(path, feeds, 'disabled'), await run(model, feeds, 'disabled')];
      expect(actual.logits!.data).toEqual(expected.logits!.data);
    },
  );

  it('says in the newer form what Split did in the older', async () => {
    const graph = new Graph();
    const x = graph.input('x', 'float32', ['n', 6]);
    const make = new Builder(graph, 'm');
    graph.outputs = make.node('Split', [x], 3, { attributes: { axis: 1 } }).outputs.map((value) => value!);
    const model = modelOf(graph, 13);
    raiseOpset(model, 21);
    const result = await run(model, feedsFor(graph.inputs, { n: 2 }));
    expect(Object.values(result).map((tensor) => tensor.dims)).toEqual([
      [2, 2],
      [2, 2],
      [2, 2],
    ]);
  });

  it('refuses operators that mean something else there', () => {
    const graph = new Graph();
    const x = graph.input('x', 'float32', [1, 1, 4, 4]);
    const make = new Builder(graph, 'm');
    graph.outputs = [make.op('Resize', [x, null, make.constant('s', make.ints([1]).initializer!)])];
    expect(() => raiseOpset(modelOf(graph), 21)).toThrowError(
      expect.objectContaining({ code: 'MODEL_OPSET', message: expect.stringMatching(/Resize/) }),
    );
  });

  it('refuses them where they changed on the way, not where that lies behind', () => {
    const graph = new Graph();
    const x = graph.input('x', 'float32', [1, 4, 8]);
    const make = new Builder(graph, 'm');
    const [scale, bias] = ['scale', 'bias'].map((name) => graph.input(name, 'float32', [2]));
    graph.outputs = [make.op('GroupNormalization', [x, scale!, bias!], { attributes: { num_groups: 2 } })];
    const model = modelOf(graph, 18);
    raiseOpset(model, 20);
    expect(model.opsets.get('')).toBe(20);
    expect(() => raiseOpset(model, 21)).toThrowError(expect.objectContaining({ code: 'MODEL_OPSET' }));
    expect(model.opsets.get('')).toBe(20);
    model.opsets.set('', 21);
    raiseOpset(model, 21);
  });
});
