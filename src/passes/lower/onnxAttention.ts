import type { Value } from '../../onnx/graph.ts';
import { causalBias, fromHeads, maskBias, scaledDotProduct, toHeads } from './attentionCore.ts';
import type { Lowering } from './lowering.ts';

/**
 * ai.onnx Attention (opset 23) without a cache: Q [B, S, H*D] or [B, H, S, D], K and V with K heads likewise,
 * attn_mask? boolean (true: seen) or added, broadcast to [B, H, S, T] -> Y in the form of Q, and K and V as heads.
 */
export const onnxAttention: Lowering = (node, at) => {
  const [q, k, v] = [0, 1, 2].map((i) => at.input(i)) as [Value, Value, Value];
  at.noCache(4, 2);
  at.noCache(5, 2);
  at.unread(3, 'qk_matmul_output');
  if (node.inputs[6]) at.refuse('it takes nonpad_kv_seqlen');
  const flat = at.shape(q).length === 3;
  const heads = flat ? node.int('q_num_heads', 0) : at.known(q, 1);
  const keyHeads = flat ? node.int('kv_num_heads', 0) : at.known(k, 1);
  const split = (x: Value, count: number) => (flat ? toHeads(at, x, count, at.known(x, -1) / count) : x);
  const [query, key, value] = [split(q, heads), split(k, keyHeads), split(v, keyHeads)];
  const mask = node.inputs[3];
  const biases = [
    ...(mask ? [mask.dtype === 'bool' ? maskBias(at, mask) : mask] : []),
    ...(node.int('is_causal', 0) !== 0 ? [causalBias(at, query, key)] : []),
  ];
  const valueSize = at.known(value, -1);
  const scale = node.float('scale', 0) || 1 / Math.sqrt(at.known(query, -1));
  const softcap = node.float('softcap', 0);
  const parts = { query, key, value, heads, keyHeads, valueSize, scale, softcap, biases };
  const output = scaledDotProduct(at, parts);
  return [flat ? fromHeads(at, output, heads * valueSize) : output, key, value].slice(0, node.outputs.length);
};
