import type { Dim, Node } from '../../onnx/graph.ts';
import { add, divide, multiply } from '../symbolic.ts';
import { dtypeAt, type Inferred, type Rule, sameAsInput, shapeAt } from './rule.ts';

/** Length of a cache after this call: what was there and what came. */
const grown = (past: readonly Dim[] | null, axis: number, length: Dim): Dim =>
  past ? add(past[axis]!, length) : length;

/** q [B,S,H*D] (or packed q|k|v), k, v [B,S,KH*D], past [B,KH,P,D] -> Y [B,S,H*D], present [B,KH,T,D]. */
const groupQuery: Rule = (node) => {
  const dtype = dtypeAt(node, 0);
  const query = shapeAt(node, 0);
  if (query?.length !== 3) return node.outputs.map(() => ({ dtype, shape: null }));
  const [batch, length, width] = query as [Dim, Dim, Dim];
  const heads = node.int('num_heads', 0);
  const keyHeads = node.int('kv_num_heads', 0);
  const packed = !node.inputs[1];
  const headSize = divide(width, packed ? heads + 2 * keyHeads : heads);
  const past = shapeAt(node, 3);
  // Some exports share one buffer between past and present; its length is then not the sum.
  const total = !node.inputs[3] || past?.[2] === 0 ? length : null;
  const present: Inferred = { dtype, shape: [batch, keyHeads, total, headSize] };
  return [{ dtype, shape: [batch, length, multiply(headSize, heads)] }, present, present].slice(
    0,
    node.outputs.length,
  );
};

/** q [B,S,H*D], k, v [B,L,H*D] or [B,H,L,D]; packed forms leave shapes open. */
const multiHead: Rule = (node) => {
  const dtype = dtypeAt(node, 0);
  const [query, key, value] = [0, 1, 2].map((i) => shapeAt(node, i));
  if (query?.length !== 3 || !key || !value) return node.outputs.map(() => ({ dtype, shape: null }));
  const heads = node.int('num_heads', 0);
  const crossed = key.length === 4;
  const width = crossed ? multiply(value[3]!, heads) : value[2]!;
  const past = shapeAt(node, 6);
  const total = grown(past, 2, crossed ? key[2]! : key[1]!);
  const cache = (size: Dim): Inferred => ({ dtype, shape: [query[0]!, heads, total, size] });
  return [
    { dtype, shape: [query[0]!, query[1]!, width] },
    cache(divide(query[2]!, heads)),
    cache(divide(width, heads)),
    { dtype, shape: [query[0]!, heads, query[1]!, total] },
  ].slice(0, node.outputs.length);
};

/** com.microsoft Attention: x [B,S,in], merged weight [in, q|k|v]; present [2,B,H,T,D]. */
const merged: Rule = (node) => {
  const dtype = dtypeAt(node, 0);
  const data = shapeAt(node, 0);
  const sizes = node.ints('qkv_hidden_sizes');
  const width = sizes?.[2] ?? divide(shapeAt(node, 1)?.[1] ?? null, 3);
  if (data?.length !== 3) return node.outputs.map(() => ({ dtype, shape: null }));
  const heads = node.int('num_heads', 0);
  const past = shapeAt(node, 4);
  return [
    { dtype, shape: [data[0]!, data[1]!, width] },
    { dtype, shape: [2, data[0]!, heads, grown(past, 3, data[1]!), divide(width, heads)] },
  ].slice(0, node.outputs.length);
};

/** ai.onnx Attention (opset 23): 3-D inputs [B,S,H*D] with head attributes, or 4-D [B,H,S,D]. */
const standard: Rule = (node: Node) => {
  const dtype = dtypeAt(node, 0);
  const [query, key, value] = [0, 1, 2].map((i) => shapeAt(node, i));
  if (!query || !key || !value) return node.outputs.map(() => ({ dtype, shape: null }));
  const flat = query.length === 3;
  const heads = flat ? node.int('q_num_heads', 0) : query[1]!;
  const keyHeads = flat ? node.int('kv_num_heads', 0) : key[1]!;
  const length = flat ? query[1]! : query[2]!;
  const keySize = flat ? divide(key[2]!, keyHeads) : key[3]!;
  const valueSize = flat ? divide(value[2]!, keyHeads) : value[3]!;
  const total = grown(shapeAt(node, 4), 2, flat ? key[1]! : key[2]!);
  const batch = query[0]!;
  return [
    {
      dtype,
      shape: flat ? [batch, length, multiply(heads, valueSize)] : [batch, heads, length, valueSize],
    },
    { dtype, shape: [batch, keyHeads, total, keySize] },
    { dtype, shape: [batch, keyHeads, total, valueSize] },
    { dtype, shape: [batch, heads, length, total] },
  ].slice(0, node.outputs.length);
};

/** Attention in its fused forms, and rotary positions. */
export const attentionRules: Readonly<Record<string, Rule>> = {
  'com.microsoft.GroupQueryAttention': groupQuery,
  'com.microsoft.MultiHeadAttention': multiHead,
  'com.microsoft.Attention': merged,
  Attention: standard,
  'com.microsoft.RotaryEmbedding': sameAsInput,
  RotaryEmbedding: sameAsInput,
};
