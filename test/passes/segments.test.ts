import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { cloneModel } from '../../src/onnx/clone.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { Graph, type Value } from '../../src/onnx/graph.ts';
import { gatherRows } from '../../src/passes/gatherRows.ts';
import { prepareForTraining } from '../../src/passes/index.ts';
import { prune } from '../../src/passes/prune.ts';
import { findSegments, startAt } from '../../src/passes/segments.ts';
import { adapt } from './adapt.ts';
import { type Feeds, feedsFor, fixtures, lengthsOf, modelOf, run } from './models.ts';

const models = fixtures.filter(([name]) => !/fp16|merged|kv/.test(name));

function prepared(path: string) {
  const model = readModel(path);
  const output = model.graph.outputs.find((value) => !/^present/.test(value.name))!.name;
  prepareForTraining(model, { outputs: [output] });
  return { model, output: model.graph.outputs[0]!, feeds: feedsFor(model.graph.inputs, lengthsOf(model)) };
}

describe('findSegments', () => {
  it.each(models)('%s: starting at any block boundary gives the same bits', async (_, path) => {
    const { model, output, feeds } = prepared(path);
    const segments = findSegments(model, output);
    const { cuts } = segments;
    // At least both sides of two blocks and the middle of each, where feed-forward follows attention.
    expect(cuts.length).toBeGreaterThanOrEqual(3);
    const traced = cloneModel(model);
    const byName = new Map(traced.graph.nodes.flatMap((node) => node.outputs.map((v) => [v!.name, v!])));
    traced.graph.outputs = [...cuts, output].map((value) => byName.get(value.name)!);
    const whole = await run(traced, feeds, 'disabled');
    for (const i of [0, Math.floor(cuts.length / 2), cuts.length - 1]) {
      const cut = cuts[i]!;
      const suffix = cloneModel(model);
      startAt(
        suffix.graph,
        suffix.graph.nodes.flatMap((node) => node.outputs).find((v) => v?.name === cut.name)!,
      );
      const input: Feeds = { ...feeds, [cut.name]: whole[cut.name]! };
      const result = await run(suffix, input, 'disabled');
      expect(result[output.name]!.data).toEqual(whole[output.name]!.data);
      expect(suffix.graph.nodes.length).toBeLessThan(model.graph.nodes.length);
    }
  });

  it('finds the blocks of an adapted model whose rows are gathered, and tells where a node lies', async () => {
    const { model, output, feeds } = prepared(fixtures.find(([name]) => name === 'llama/model.onnx')![1]);
    adapt(model, 'rank', feeds);
    const plain = findSegments(model, output).cuts;
    const rows = model.graph.input('rows', 'int64', ['labels']);
    feeds.rows = new ort.Tensor('int64', BigInt64Array.of(1n, 8n), [2]);
    const selected = gatherRows(model, output, rows).output;
    model.graph.outputs = [selected];
    prune(model.graph);
    const segments = findSegments(model, selected);
    // Up to the last block's input; in the last block the stream goes on in rows.
    const names = (values: readonly Value[]) => values.map((value) => value.name);
    expect(names(segments.cuts.slice(0, 3))).toEqual(names(plain.slice(0, 3)));
    expect(segments.cuts[3]!.shape).toEqual(['labels', 32]);
    const segmentOf = (name: RegExp) =>
      segments.segmentOf(model.graph.nodes.find((node) => name.test(node.name))!);
    const first = segmentOf(/^\/model\/layers\.0\/self_attn\/q_proj/)!;
    const second = segmentOf(/^\/model\/layers\.1\/self_attn\/q_proj/)!;
    expect(second).toBeGreaterThan(first);
    expect(segmentOf(/^\/model\/rotary_emb/)).toBeNull();
    expect(names(segments.sideValues(second))).toContain('/model/Where_output_0');

    const cut = segments.cuts[second - 1]!;
    const whole = cloneModel(model);
    whole.graph.outputs.push(
      whole.graph.nodes.flatMap((node) => node.outputs).find((v) => v!.name === cut.name)!,
    );
    const expected = await run(whole, feeds, 'disabled');
    startAt(model.graph, cut);
    // Adapters of the first block are not asked for any more, those of the second are.
    expect(model.graph.inputs.map((value) => value.name)).not.toContain('a0');
    expect(model.graph.inputs[0]!.name).toBe(cut.name);
    const actual = await run(model, { ...feeds, [cut.name]: expected[cut.name]! }, 'disabled');
    expect(actual[selected.name]!.data).toEqual(expected[selected.name]!.data);
  });

  it('finds nothing to cut where two streams run beside each other', () => {
    const graph = new Graph();
    const x = graph.input('inputs_embeds', 'float32', ['batch', 'length', 4]);
    const make = new Builder(graph, 'm');
    const [a, b] = [make.op('Tanh', [x]), make.op('Sigmoid', [x])];
    graph.outputs = [make.op('Add', [make.op('Tanh', [a]), make.op('Mul', [a, b])])];
    expect(findSegments(modelOf(graph), graph.outputs[0]!).cuts).toEqual([]);
  });

  it('says what it looked for when no input carries data', () => {
    const graph = new Graph();
    graph.outputs = [new Builder(graph, 'm').op('Tanh', [graph.input('attention_mask', 'float32', [4])])];
    expect(() => findSegments(modelOf(graph), graph.outputs[0]!)).toThrowError(
      expect.objectContaining({ code: 'MODEL_NO_CONTENT', kind: 'model' }),
    );
  });
});
