import { Builder } from '../onnx/builder.ts';
import type { Model, Node, Value } from '../onnx/graph.ts';
import { prune } from './prune.ts';

/**
 * Makes products with a transposed constant read the constant as it lies, in place: ONNX Runtime would compute the
 * transpose when it loads the graph and keep it beside the original. A 2-D product becomes Gemm; others become
 * FusedMatMul where `fused` allows it (a kernel of CPU and CUDA). Returns how many products changed.
 */
export function readTransposed(model: Model, { fused }: { readonly fused: boolean }): number {
  const { graph } = model;
  const products = graph.nodes.flatMap((node) => {
    const weight = node.op === 'MatMul' && node.domain === '' ? transposedConstant(node) : undefined;
    const flat = node.inputs[0]?.shape?.length === 2;
    return weight && (flat || fused) ? [{ node, weight, flat }] : [];
  });
  for (const { node, weight, flat } of products) {
    const make = new Builder(graph, '');
    const product = make.op(flat ? 'Gemm' : 'FusedMatMul', [node.inputs[0]!, weight], {
      name: `${(node.name || node.op).replace(/^\//, '')}/transposed`,
      domain: flat ? '' : 'com.microsoft',
      attributes: { transB: 1 },
      dtype: node.output.dtype,
      shape: node.output.shape,
    });
    if (!flat) model.opsets.set('com.microsoft', 1);
    const { name } = node.output;
    graph.replaceUses(node.output, product);
    node.output.name = graph.unique(`${name}/before`);
    product.name = name;
  }
  if (products.length > 0) prune(graph);
  return products.length;
}

/** W where the product's right side is the transpose of a constant matrix W. */
function transposedConstant(node: Node): Value | undefined {
  const transpose = node.inputs[1]?.producer;
  const source = transpose?.op === 'Transpose' && transpose.domain === '' ? transpose.inputs[0] : undefined;
  return source?.initializer && source.initializer.dims.length === 2 ? source : undefined;
}
