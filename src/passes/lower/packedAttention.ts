import type { Node, Value } from '../../onnx/graph.ts';
import { toHeads } from './attentionCore.ts';
import type { Lowering } from './lowering.ts';
import { maskedAttention } from './multiHeadAttention.ts';

/**
 * A name for the projection: ONNX Runtime's optimiser calls the node Attention_0, but leaves the name of what it
 * replaced to the output, /encoder/layer.0/attention/self/Reshape_3_output_0.
 */
export function projectionName(node: Node): string {
  const path = /^(\/.*\/([^/]+))\/[^/]+_output_\d+$/.exec(node.outputs[0]?.name ?? '');
  if (!path || !/^Attention_\d+$/.test(node.name)) return node.name;
  return `${path[1]}/${path[2] === 'attn' ? 'c_attn' : 'query_key_value'}/MatMul`;
}

/**
 * com.microsoft Attention without a cache: x [B, S, in], weight [in, q | k | v] and bias of the three projections
 * -> [B, S, H*Dv]; the present output is [2, B, H, S, D].
 */
export const packedAttention: Lowering = (node, at) => {
  const heads = node.int('num_heads', 0);
  at.noCache(4, 3);
  if (node.int('do_rotary', 0) !== 0) at.refuse('it rotates positions');
  const [x, weight] = [at.input(0), at.input(1)];
  const third = at.known(weight, 1) / 3;
  const widths = node.ints('qkv_hidden_sizes') ?? [third, third, third];
  let projected = at.main('MatMul', [x, weight], {}, { name: projectionName(node) });
  if (node.inputs[2]) projected = at.op('Add', [projected, node.inputs[2]]);
  const [query, key, value] = at
    .split(projected, widths, 2)
    .map((part, i) => toHeads(at, part, heads, widths[i]! / heads)) as [Value, Value, Value];
  const output = maskedAttention(at, query, key, value, { mask: node.inputs[3], bias: node.inputs[5] });
  const present = () => at.op('Concat', [at.unsqueeze(key, [0]), at.unsqueeze(value, [0])], { axis: 0 });
  return [output, node.outputs[1] ? present() : null].slice(0, node.outputs.length);
};
