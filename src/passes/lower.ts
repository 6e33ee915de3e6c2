import type { Model, Node, Value } from '../onnx/graph.ts';
import { inferTypes } from './inferTypes.ts';
import { dynamicQuantizeMatMul, matMulInteger, matMulIntegerToFloat } from './lower/dynamicQuantized.ts';
import { fusedMatMul } from './lower/fusedMatMul.ts';
import { gatherBlockQuantized } from './lower/gatherBlockQuantized.ts';
import { exactGelu, fastGelu, quickGelu } from './lower/gelu.ts';
import { groupQueryAttention } from './lower/groupQueryAttention.ts';
import { type Lowering, replace, Site } from './lower/lowering.ts';
import { matMulBnb4 } from './lower/matMulBnb4.ts';
import { matMulNBits } from './lower/matMulNBits.ts';
import { multiHeadAttention } from './lower/multiHeadAttention.ts';
import {
  simplifiedLayerNormalization,
  skipLayerNormalization,
  skipSimplifiedLayerNormalization,
} from './lower/normalization.ts';
import { onnxAttention } from './lower/onnxAttention.ts';
import { packedAttention } from './lower/packedAttention.ts';
import { contribRotaryEmbedding, rotaryEmbedding } from './lower/rotaryEmbedding.ts';
import { prune } from './prune.ts';

/** How each fused operator is computed by plain ones. A new operator is a file and a line here. */
export const lowerings: Readonly<Record<string, Lowering>> = {
  Attention: onnxAttention,
  MatMulInteger: matMulInteger,
  RotaryEmbedding: rotaryEmbedding,
  SimplifiedLayerNormalization: simplifiedLayerNormalization,
  'com.microsoft.Attention': packedAttention,
  'com.microsoft.BiasGelu': exactGelu,
  'com.microsoft.DynamicQuantizeMatMul': dynamicQuantizeMatMul,
  'com.microsoft.FastGelu': fastGelu,
  'com.microsoft.FusedMatMul': fusedMatMul,
  'com.microsoft.GatherBlockQuantized': gatherBlockQuantized,
  'com.microsoft.Gelu': exactGelu,
  'com.microsoft.GroupQueryAttention': groupQueryAttention,
  'com.microsoft.MatMulBnb4': matMulBnb4,
  'com.microsoft.MatMulIntegerToFloat': matMulIntegerToFloat,
  'com.microsoft.MatMulNBits': matMulNBits,
  'com.microsoft.MultiHeadAttention': multiHeadAttention,
  'com.microsoft.QuickGelu': quickGelu,
  'com.microsoft.RotaryEmbedding': contribRotaryEmbedding,
  'com.microsoft.SkipLayerNormalization': skipLayerNormalization,
  'com.microsoft.SkipSimplifiedLayerNormalization': skipSimplifiedLayerNormalization,
};

const loweringOf = (node: Node) => lowerings[node.domain === '' ? node.op : `${node.domain}.${node.op}`];

/**
 * Takes fused operators apart, in place, into operators that have gradients; the node that stands for a product
 * keeps the fused node's name and metadata. Expects float32 and no cache (see widen, emptyCache); may raise the
 * operator set to 21. Leaves new values typed and dead nodes pruned. Returns how many nodes were taken apart.
 * Errors: MODEL_LOWERING (model) names the node and the reason.
 */
export function lower(model: Model): number {
  const { graph } = model;
  if (!graph.nodes.some(loweringOf)) return 0;
  const types = inferTypes(model);
  const fused = graph.nodes.filter(loweringOf);
  const shared = new Map<string, Value>();
  for (const node of fused) {
    const outputs = loweringOf(node)!(node, new Site(model, node, shared, types));
    node.outputs.forEach((old, i) => {
      if (old && outputs[i]) replace(graph, old, outputs[i]);
    });
  }
  prune(graph);
  return fused.length;
}
