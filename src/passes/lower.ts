import type { Model, Node, Value } from '../onnx/graph.ts';
import { inferTypes } from './inferTypes.ts';
import { dynamicQuantizeMatMul, matMulInteger, matMulIntegerToFloat } from './lower/dynamicQuantized.ts';
import { embedLayerNormalization } from './lower/embedLayerNormalization.ts';
import {
  keptAttention,
  keptGroupQueryAttention,
  keptMultiHeadAttention,
  projectionApart,
  quantiserApart,
  sumApart,
} from './lower/fusedForward.ts';
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
  'com.microsoft.EmbedLayerNormalization': embedLayerNormalization,
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

const nameOf = (node: Node) => (node.domain === '' ? node.op : `${node.domain}.${node.op}`);

/** Whether a device has a kernel for an operator, named with its domain as in `lowerings`. */
export type HasKernel = (op: string) => boolean;

/** The other forms of fused operators in a graph without gradients, and the operator that each consists of. */
const forwardForms: Readonly<Record<string, { readonly form: Lowering; readonly needs: string }>> = {
  Attention: { form: keptAttention, needs: 'Attention' },
  'com.microsoft.Attention': { form: projectionApart, needs: 'com.microsoft.MultiHeadAttention' },
  'com.microsoft.DynamicQuantizeMatMul': {
    form: quantiserApart,
    needs: 'com.microsoft.MatMulIntegerToFloat',
  },
  'com.microsoft.GroupQueryAttention': {
    form: keptGroupQueryAttention,
    needs: 'com.microsoft.GroupQueryAttention',
  },
  'com.microsoft.MultiHeadAttention': {
    form: keptMultiHeadAttention,
    needs: 'com.microsoft.MultiHeadAttention',
  },
  'com.microsoft.SkipLayerNormalization': { form: skipLayerNormalization, needs: 'LayerNormalization' },
  'com.microsoft.SkipSimplifiedLayerNormalization': {
    form: sumApart,
    needs: 'SimplifiedLayerNormalization',
  },
};

/**
 * Takes fused operators apart, in place, into operators that have gradients; the node that stands for a product
 * keeps the fused node's name and metadata. Expects float32 and no cache (see widen, emptyCache); may raise the
 * operator set to 21. Leaves new values typed and dead nodes pruned. Returns how many nodes were taken apart.
 * Errors: MODEL_LOWERING (model) names the node and the reason.
 */
export function lower(model: Model): number {
  return rewrite(model, (node) => lowerings[nameOf(node)]);
}

/**
 * Takes apart, in place, what no device runs faster fused and whose plain form has weights of its own, which graphs of
 * one model can then share. Returns how many nodes that were.
 */
export function lowerSlow(model: Model): number {
  return rewrite(model, (node) => (nameOf(node) === 'com.microsoft.MatMulBnb4' ? matMulBnb4 : undefined));
}

/**
 * `lower` for a graph without gradients, in place: operators that the device has kernels for stay fused, without
 * caches; sums of the residual stream and products that adapters stand beside come apart from what they are fused with.
 */
export function lowerForward(model: Model, hasKernel: HasKernel): void {
  rewrite(model, (node) => {
    const name = nameOf(node);
    const forward = forwardForms[name];
    if (forward && hasKernel(forward.needs)) return forward.form;
    return forward || !hasKernel(name) ? lowerings[name] : undefined;
  });
}

/**
 * Gives the projections of query, key and value within com.microsoft Attention outputs of their own, in place, where no
 * cache is read or written: adapters can then stand beside them. The attention stays fused. Expects float32.
 */
export function separateProjections(model: Model): void {
  rewrite(model, (node) => (isSeparable(node) ? projectionApart : undefined));
}

/** Whether a node is com.microsoft Attention in a form that MultiHeadAttention has too. */
function isSeparable(node: Node): boolean {
  if (nameOf(node) !== 'com.microsoft.Attention' || node.inputs[4] || node.outputs[1]) return false;
  const [x, , , mask] = node.inputs;
  // The one takes start and end positions [2 B] beside lengths [B], the other does not.
  const isLengths = mask?.shape?.length !== 1 || mask.shape[0] === x?.shape?.[0];
  return isLengths && node.int('do_rotary', 0) === 0;
}

/** Number of nodes that `lower` would take apart. */
export function countFused({ graph }: Model): number {
  return graph.nodes.filter((node) => nameOf(node) in lowerings).length;
}

function rewrite(model: Model, loweringOf: (node: Node) => Lowering | undefined): number {
  const { graph } = model;
  const types = graph.nodes.some(loweringOf) ? inferTypes(model) : undefined;
  if (!types) return 0;
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
