import type { Dim, Node } from '../../onnx/graph.ts';
import { dtypeAt, type Inferred, normalAxis, type Rule, sameAsInput, shapeAt } from './rule.ts';

/** Y, then Mean and InvStdDev with the normalised axes kept as 1. */
const layerNorm: Rule = (node) => {
  const data = shapeAt(node, 0);
  const axis = data ? normalAxis(node.int('axis', -1), data.length) : 0;
  const statistics = data?.map((dim, i): Dim => (i < axis ? dim : 1)) ?? null;
  return node.outputs.map((_, i) =>
    i === 0 ? { dtype: dtypeAt(node, 0), shape: data } : { dtype: 'float32', shape: statistics },
  );
};

/** Y, mean, inverse standard deviation, and the sum of input, skip and bias. */
const skipNorm: Rule = (node) => {
  const data = shapeAt(node, 0);
  const full: Inferred = { dtype: dtypeAt(node, 0), shape: data };
  const statistics: Inferred = { dtype: 'float32', shape: data ? [...data.slice(0, -1), 1] : null };
  return node.outputs.map((_, i) => (i === 1 || i === 2 ? statistics : full));
};

/** Word, position and segment embeddings, their sum normalised; the mask index is one number per row. */
const embedLayerNorm: Rule = (node: Node): Inferred[] => {
  const ids = shapeAt(node, 0);
  const hidden = shapeAt(node, 2)?.[1] ?? null;
  const full: Inferred = { dtype: dtypeAt(node, 2), shape: ids ? [...ids, hidden] : null };
  const index: Inferred = { dtype: 'int32', shape: ids ? [ids[0]!] : null };
  return [full, index, full].slice(0, node.outputs.length);
};

/** Normalisations, plain and fused with what precedes them. */
export const normalizationRules: Readonly<Record<string, Rule>> = {
  LayerNormalization: layerNorm,
  // ONNX Runtime keeps this one in the default domain.
  SimplifiedLayerNormalization: layerNorm,
  RMSNormalization: sameAsInput,
  'com.microsoft.SkipLayerNormalization': skipNorm,
  'com.microsoft.SkipSimplifiedLayerNormalization': skipNorm,
  'com.microsoft.EmbedLayerNormalization': embedLayerNorm,
  BatchNormalization: (node) => [{ dtype: dtypeAt(node, 0), shape: shapeAt(node, 0) }],
  GroupNormalization: sameAsInput,
  InstanceNormalization: sameAsInput,
  LRN: sameAsInput,
};
