import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { type Attribute, Graph, type Model } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { emptyCache } from '../../src/passes/emptyCache.ts';
import { prepareForTraining } from '../../src/passes/index.ts';
import { inlineIf } from '../../src/passes/inlineIf.ts';
import { feedsFor, fixtures, lengthsOf, modelOf, run, scaledError } from './models.ts';

const cachedPath = fixtures.find(([name]) => name === 'llama-kv/model.onnx')?.[1] ?? fixtures[0]![1];

/** A merged decoder as transformers.js 2 has it: `If` decides whether keys are appended to the cache. */
function merged(): Model {
  const graph = new Graph();
  const x = graph.input('inputs_embeds', 'float32', ['batch_size', 'sequence_length', 4]);
  const past = graph.input('past_key_values.0.key', 'float32', ['batch_size', 'past_sequence_length', 4]);
  const useCache = graph.input('use_cache_branch', 'bool', [1]);
  const weight = graph.constant(
    'weight',
    Tensor.float32(
      Array.from({ length: 16 }, (_, i) => i / 7),
      [4, 4],
    ),
  );
  const branch = (withPast: boolean): Attribute => {
    const inner = new Graph('branch');
    const b = new Builder(inner, 'b');
    const projected = b.op('MatMul', [x, weight], { name: 'k_proj/MatMul' });
    const key = withPast ? b.op('Concat', [past, projected], { attributes: { axis: 1 } }) : projected;
    inner.outputs = [b.op('Mul', [projected, b.scalar(2)]), key];
    return { type: 'graph', value: inner };
  };
  const outer = new Builder(graph, '');
  const chosen = outer.node('If', [useCache], 2, {
    attributes: { then_branch: branch(true), else_branch: branch(false) },
  });
  graph.outputs = [chosen.outputs[0]!, chosen.outputs[1]!];
  graph.outputs[0]!.name = 'logits';
  graph.outputs[1]!.name = 'present.0.key';
  return modelOf(graph);
}

describe('emptyCache', () => {
  it('makes a cached decoder run on whole sequences with the same logits', async () => {
    const original = readModel(cachedPath);
    const model = readModel(cachedPath);
    const gone = emptyCache(model);
    const { graph } = model;
    expect(gone).toContain('past_key_values.0.key');
    expect(gone).toContain('present.1.value');
    expect(graph.inputs.map((value) => value.name)).toEqual(['input_ids', 'attention_mask', 'position_ids']);
    expect(graph.findInput('attention_mask')!.shape).toEqual(['batch_size', 'sequence_length']);
    expect(graph.outputs.map((value) => [value.name, value.shape])).toEqual([
      ['logits', ['batch_size', 'sequence_length', 128]],
    ]);
    const feeds = feedsFor(original.graph.inputs, lengthsOf(original));
    const [expected, actual] = [
      await run(cachedPath, feeds, 'disabled'),
      await run(model, feeds, 'disabled'),
    ];
    expect(actual.logits!.data).toEqual(expected.logits!.data);
  });

  it('takes the branch without a cache out of a merged decoder', async () => {
    const model = merged();
    const feeds = feedsFor(model.graph.inputs, lengthsOf(model));
    (feeds.inputs_embeds!.data as Float32Array).set(Float32Array.from({ length: 40 }, (_, i) => Math.sin(i)));
    const expected = await run(model, feeds);
    emptyCache(model);
    expect(model.graph.inputs.map((value) => value.name)).toEqual(['inputs_embeds']);
    expect(model.graph.outputs.map((value) => value.name)).toEqual(['logits']);
    expect(model.graph.nodes.map((node) => node.op)).not.toContain('If');
    // Names that say which module a node belongs to survive.
    expect(model.graph.nodes.map((node) => node.name)).toContain('b/k_proj/MatMul');
    expect((await run(model, feeds)).logits!.data).toEqual(expected.logits!.data);
  });

  it('keeps all logits, and counts cache positions itself', async () => {
    const graph = new Graph();
    const ids = graph.input('input_ids', 'int64', ['batch_size', 'sequence_length']);
    const keep = graph.input('num_logits_to_keep', 'int64', []);
    const position = graph.input('cache_position', 'int64', ['sequence_length']);
    const b = new Builder(graph, 'b');
    const sum = b.op('Add', [ids, position]);
    const start = b.op('Unsqueeze', [b.op('Neg', [keep]), b.ints([0])]);
    graph.outputs = [b.op('Slice', [sum, start, b.ints([2 ** 63]), b.ints([1])])];
    graph.outputs[0]!.name = 'logits';
    const model = modelOf(graph);
    expect(emptyCache(model)).toEqual(['num_logits_to_keep', 'cache_position']);
    expect(graph.outputs[0]!.shape).toEqual(['batch_size', 'sequence_length']);
    const result = await run(model, feedsFor(graph.inputs, lengthsOf(model, 1, 3)));
    expect(Array.from(result.logits!.data as BigInt64Array)).toEqual([0n, 8n, 16n]);
  });

  it('empties the cache of fused attention, which lowering then takes apart', async () => {
    const build = () => {
      const graph = new Graph();
      const b = new Builder(graph, 'b');
      const query = graph.input('query', 'float32', ['batch_size', 'sequence_length', 32]);
      const keys = graph.input('keys', 'float32', ['batch_size', 'sequence_length', 16]);
      const mask = graph.input('attention_mask', 'int64', ['batch_size', 'total_sequence_length']);
      const past = ['key', 'value'].map((part) =>
        graph.input(`past_key_values.0.${part}`, 'float32', ['batch_size', 2, 'past_sequence_length', 8]),
      );
      // As genai and transformers.js exports count the keys.
      const toInt32 = { attributes: { to: 6 } };
      const seqlens = b.op('Sub', [b.op('ReduceSum', [mask, b.ints([1])]), b.ints([1])]);
      const total = b.op('Gather', [b.op('Shape', [mask]), b.int(1)], { attributes: { axis: 0 } });
      const counts = [b.op('Cast', [seqlens], toInt32), b.op('Cast', [total], toInt32)];
      const node = b.node('GroupQueryAttention', [query, keys, keys, ...past, ...counts], 3, {
        domain: 'com.microsoft',
        attributes: { num_heads: 4, kv_num_heads: 2 },
      });
      graph.outputs = node.outputs.map((value) => value!);
      ['logits', 'present.0.key', 'present.0.value'].forEach((name, i) => {
        graph.outputs[i]!.name = name;
      });
      return modelOf(graph);
    };
    const model = build();
    const lengths = { ...lengthsOf(model), total_sequence_length: 5 };
    const feeds = feedsFor(model.graph.inputs, lengths);
    for (const name of ['query', 'keys'])
      (feeds[name]!.data as Float32Array).forEach((_, i, data) => {
        data[i] = Math.sin(i * 1.3);
      });
    feeds.attention_mask!.data.fill(1n as never);
    const expected = await run(model, feeds);
    prepareForTraining(model, { outputs: ['logits'] });
    expect(model.graph.inputs.map((value) => value.name)).toEqual(['query', 'keys']);
    expect(model.graph.nodes.every((node) => node.domain === '')).toBe(true);
    // A few roundings of float32 in another order.
    expect(scaledError((await run(model, feeds)).logits!, expected.logits!)).toBeLessThan(4e-7);
  });

  it('leaves a graph without a cache alone', () => {
    const model = readModel(fixtures.find(([name]) => name === 'bert/model.onnx')![1]);
    const nodes = [...model.graph.nodes];
    expect(emptyCache(model)).toEqual([]);
    expect(model.graph.nodes).toEqual(nodes);
  });
});

describe('inlineIf', () => {
  it('leaves a branch that depends on an input', () => {
    const model = merged();
    expect(inlineIf(model)).toBe(0);
    expect(model.graph.nodes.map((node) => node.op)).toEqual(['If']);
  });

  it('forgets the branch that was not taken', () => {
    const model = merged();
    const { graph } = model;
    const condition = graph.findInput('use_cache_branch')!;
    graph.replaceUses(condition, graph.constant('yes', Tensor.bool([true], [1])));
    expect(inlineIf(model)).toBe(1);
    expect(graph.findInput('past_key_values.0.key')!.users.size).toBe(1);
    const weight = [...graph.initializers].find((value) => value.name === 'weight')!;
    expect([...weight.users].every((node) => graph.nodes.includes(node))).toBe(true);
  });
});
