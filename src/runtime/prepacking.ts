import type { Graph, Node } from '../onnx/graph.ts';

/** Products that take a block-wise weight apart into floats at each call, unless it was packed before. */
const unpackedEachCall: ReadonlySet<string> = new Set(['MatMulNBits']);

/** Products that pack an 8-bit weight at each call: little beside a batch, most of the time of a single token. */
const packedEachCall: ReadonlySet<string> = new Set([
  'DynamicQuantizeMatMul',
  'MatMulInteger',
  'MatMulIntegerToFloat',
]);

/** What ONNX Runtime itself makes a MatMulNBits of: a block-wise 4-bit constant dequantised for one reader. */
function becomesBlockwise(node: Node): boolean {
  const isBlocked = node.op === 'DequantizeLinear' && node.int('block_size', 0) > 0;
  return (
    isBlocked && /^u?int4$/.test(node.inputs[0]?.initializer?.dtype ?? '') && node.output.users.size === 1
  );
}

/**
 * Whether ONNX Runtime shall pack constant weights as the session opens, which copies them: worth it where quantised
 * products would do so at every call. `calls` says what the session will mostly see.
 */
export function worthPacking(graph: Graph, calls: 'batches' | 'tokens'): boolean {
  // Where gradients read the weights too, the few that only the forward pass reads do not decide.
  const forwardOnly = graph.nodes.every(
    (node) => node.op !== 'DequantizeLinear' || node.output.users.size <= 1,
  );
  return graph.nodes.some(
    (node) =>
      unpackedEachCall.has(node.op) ||
      (forwardOnly && becomesBlockwise(node)) ||
      (calls === 'tokens' && packedEachCall.has(node.op)) ||
      node.subgraphs().some((subgraph) => worthPacking(subgraph, calls)),
  );
}
