import type { Graph } from '../onnx/graph.ts';

/** Products that take a block-wise weight apart into floats at each call, unless it was packed before. */
const unpackedEachCall: ReadonlySet<string> = new Set(['MatMulNBits']);

/** Products that pack an 8-bit weight at each call: little beside a batch, most of the time of a single token. */
const packedEachCall: ReadonlySet<string> = new Set([
  'DynamicQuantizeMatMul',
  'MatMulInteger',
  'MatMulIntegerToFloat',
]);

/**
 * Whether ONNX Runtime shall pack constant weights as the session opens, which copies them: worth it where quantised
 * products would do so at every call. `calls` says what the session will mostly see.
 */
export function worthPacking(graph: Graph, calls: 'batches' | 'tokens'): boolean {
  return graph.nodes.some(
    (node) =>
      unpackedEachCall.has(node.op) ||
      (calls === 'tokens' && packedEachCall.has(node.op)) ||
      node.subgraphs().some((subgraph) => worthPacking(subgraph, calls)),
  );
}
