import type { Value } from '../../onnx/graph.ts';
import type { Lowering, Site } from './lowering.ts';
import { projectionName } from './packedAttention.ts';

/*
 * What a graph without gradients asks of fused operators: they stay, without the cache, and what stands in the way of
 * adapters, of cuts in the residual stream, or of computing chosen rows only comes apart.
 */

/** Number of outputs up to the last that somebody reads. */
function outputsRead({ node, graph }: Site): number {
  const isRead = (value: Value | null) => !!value && (value.users.size > 0 || graph.outputs.includes(value));
  return Math.max(1, node.outputs.findLastIndex(isRead) + 1);
}

/** Attention without the inputs that hold an empty cache and without outputs that nobody reads. */
const withoutCache =
  (...cache: readonly number[]): Lowering =>
  (node, at) => {
    for (const input of cache) at.noCache(input, 2);
    const inputs = node.inputs.map((value, i) => (cache.includes(i) ? null : value));
    return at.again(inputs, outputsRead(at));
  };

/** com.microsoft MultiHeadAttention; past_key and past_value go. */
export const keptMultiHeadAttention = withoutCache(6, 7);

/** ai.onnx Attention; past_key and past_value go. */
export const keptAttention = withoutCache(4, 5);

/**
 * com.microsoft GroupQueryAttention on whole sequences. `seqlens_k` counts all positions, padding on the right
 * included, from which the causal mask keeps the real ones: the kernel leaves rows behind a sequence's end undefined,
 * and those must not reach the ranges of quantised activations. Positions count from 0, as without position_ids.
 */
export const keptGroupQueryAttention: Lowering = (node, at) => {
  at.noCache(3, 2);
  at.noCache(4, 2);
  const query = at.input(0);
  const total = at.once('sequence length', () => at.cast(at.length(query, 1), 'int32'));
  const lengths = at.once('last positions', () => {
    const last = at.op('Sub', [total, at.scalar(1, 'int32')]);
    return at.op('Expand', [last, at.unsqueeze(at.length(query, 0), [0])]);
  });
  const replaced = new Map([
    [3, null],
    [4, null],
    [5, lengths],
    [6, total],
    [9, null],
  ]);
  return at.again(
    node.inputs.map((value, i) => (replaced.has(i) ? replaced.get(i)! : value)),
    outputsRead(at),
  );
};

/** com.microsoft Attention with its projection as a product of its own, beside which adapters can stand. */
export const projectionApart: Lowering = (node, at) => {
  at.noCache(4, 3);
  at.unread(1, 'present');
  if (node.int('do_rotary', 0) !== 0) at.refuse('it rotates positions');
  const third = at.known(at.input(1), 1) / 3;
  const projected = at.main('MatMul', [at.input(0), at.input(1)], {}, { name: projectionName(node) });
  const heads = at.split(projected, node.ints('qkv_hidden_sizes') ?? [third, third, third], 2);
  const [bias = null, mask = null, , scores = null] = node.inputs.slice(2);
  const attributes = ['num_heads', 'unidirectional', 'scale', 'mask_filter_value'].map(
    (name) => [name, node.attributes.get(name)] as const,
  );
  return at.contrib('MultiHeadAttention', [...heads, bias, mask, scores], Object.fromEntries(attributes));
};

/**
 * com.microsoft DynamicQuantizeMatMul with its quantiser apart: the range is that of all rows, the product can then be
 * computed for some.
 */
export const quantiserApart: Lowering = (node, at) => {
  const [x, weight, scale] = [0, 1, 2].map((i) => at.input(i)) as [Value, Value, Value];
  const [integers, step, zero] = at.quantised(x) as [Value, Value, Value];
  const [zeroOfWeight = null, bias = null] = node.inputs.slice(3);
  const inputs = [integers, weight, step, scale, zero, zeroOfWeight, bias];
  return [at.main('MatMulIntegerToFloat', inputs, {}, { domain: 'com.microsoft' })];
};

/** com.microsoft SkipSimplifiedLayerNormalization with its sum apart: the residual stream where a graph can be cut. */
export const sumApart: Lowering = (node, at) => {
  const total = at.op('Add', [at.input(0), at.input(1)]);
  const sum = node.inputs[3] ? at.op('Add', [total, node.inputs[3]]) : total;
  const epsilon = { type: 'float', value: node.float('epsilon', 1e-12) } as const;
  const norm = at.op('SimplifiedLayerNormalization', [sum, at.input(2)], { axis: -1, epsilon });
  return [norm, null, null, sum].slice(0, node.outputs.length);
};
