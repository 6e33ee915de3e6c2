import type { Value } from '../../onnx/graph.ts';
import { causalBias, fromHeads, lengthBias, maskBias, scaledDotProduct, toHeads } from './attentionCore.ts';
import type { Lowering, Site } from './lowering.ts';

/**
 * The masks of ONNX Runtime's attention operators as additive biases. Lengths [B] (keys before the length), a mask
 * [B, T] or [B, S, T] with 0 for hidden keys; hidden scores get `mask_filter_value` added.
 */
function keyMask(at: Site, mask: Value, key: Value): Value {
  const filter = at.node.float('mask_filter_value', -10000);
  const shape = at.shape(mask);
  switch (shape.length) {
    case 1:
      if (shape[0] !== at.shape(key)[0]) at.refuse('its mask of start and end positions is not supported');
      return lengthBias(at, mask, key, filter);
    case 2:
      return at.once(`mask2 ${mask.name} ${filter}`, () => at.unsqueeze(maskBias(at, mask, filter), [1, 2]));
    case 3:
      return at.once(`mask3 ${mask.name} ${filter}`, () => at.unsqueeze(maskBias(at, mask, filter), [1]));
    default:
      return at.refuse(`its mask has ${shape.length} axes`);
  }
}

/**
 * com.microsoft MultiHeadAttention without a cache: query [B, S, H*D], key [B, T, H*D], value [B, T, H*Dv], or packed
 * [B, S, H, 3, D], or key and value packed [B, T, H, 2, D], or as heads [B, H, T, D] -> [B, S, H*Dv].
 */
export const multiHeadAttention: Lowering = (node, at) => {
  const heads = node.int('num_heads', 0);
  at.noCache(6, 2);
  at.noCache(7, 2);
  at.unread(3, 'qk');
  const [query, key, value] = threeHeads(at, heads);
  const output = maskedAttention(at, query, key, value, { mask: node.inputs[4], bias: node.inputs[5] });
  return [output, key, value].slice(0, node.outputs.length);
};

/**
 * Attention of [B, H, S, D] queries to [B, H, T, D] keys and [B, H, T, Dv] values under the node's attributes
 * (scale, unidirectional, mask_filter_value): [B, S, H*Dv].
 */
export function maskedAttention(
  at: Site,
  query: Value,
  key: Value,
  value: Value,
  { mask, bias }: { readonly mask?: Value | null; readonly bias?: Value | null },
): Value {
  const { node } = at;
  const heads = node.int('num_heads', 0);
  const [size, valueSize] = [at.known(query, -1), at.known(value, -1)];
  const output = scaledDotProduct(at, {
    query,
    key,
    value,
    heads,
    keyHeads: heads,
    valueSize,
    scale: node.float('scale', 0) || 1 / Math.sqrt(size),
    biases: [
      ...(mask ? [keyMask(at, mask, key)] : []),
      ...(bias ? [bias] : []),
      ...(node.int('unidirectional', 0) !== 0 ? [causalBias(at, query, key)] : []),
    ],
  });
  return fromHeads(at, output, heads * valueSize);
}

/** Query, key and value as [B, H, length, size], their biases added. */
function threeHeads(at: Site, heads: number): [Value, Value, Value] {
  const { inputs } = at.node;
  const query = at.input(0);
  const bias = inputs[3];
  if (at.shape(query).length === 5) {
    if (bias) at.refuse('it adds a bias to packed heads');
    return unpacked(at, query, 3) as [Value, Value, Value];
  }
  const key = at.input(1);
  if (at.shape(key).length === 5) {
    if (bias) at.refuse('it adds a bias to packed heads');
    const [k, v] = unpacked(at, key, 2) as [Value, Value];
    return [toHeads(at, query, heads, at.known(query, -1) / heads), k, v];
  }
  const value = at.input(2);
  const widths = [query, key, value].map((x) =>
    at.shape(x).length === 4 ? heads * at.known(x, -1) : at.known(x, -1),
  );
  const parts = bias ? at.split(bias, widths, 0) : [];
  return [query, key, value].map((x, i) => {
    if (at.shape(x).length === 4) return x;
    const sum = parts[i] ? at.op('Add', [x, parts[i]]) : x;
    return toHeads(at, sum, heads, widths[i]! / heads);
  }) as [Value, Value, Value];
}

/** [B, S, H, n, D] as n tensors [B, H, S, D]. */
function unpacked(at: Site, x: Value, parts: number): Value[] {
  const ones = Array.from({ length: parts }, () => 1);
  return at
    .split(x, ones, 3)
    .map((part) => at.transpose(at.op('Squeeze', [part, at.ints([3])]), [0, 2, 1, 3]));
}
