import type { Graph, Node, Value } from '../onnx/graph.ts';

/**
 * Gives the lengths of the backward pass other names, in place: '(batch_size)' for 'batch_size', the same number. It
 * is what depends on `seed` and what only such nodes read. ONNX Runtime plans, before any run, which dead buffer a
 * later value of the same shape takes over, and keeps it from the one to the other. Without this, the scratch buffers
 * of the last forward block would be kept for the backward pass while the loss needs the most memory. Buffers are
 * still taken over within either pass. Outputs of the graph keep their names.
 */
export function partLengths(graph: Graph, seed: Value): void {
  graph.sort();
  const outputs = new Set(graph.outputs);
  const reached = new Set([seed]);
  const backward = new Set<Node>();
  for (const node of graph.nodes) {
    if (!node.inputs.some((value) => value && reached.has(value))) continue;
    backward.add(node);
    for (const value of node.outputs) if (value) reached.add(value);
  }
  const isBackward = (value: Value) =>
    !outputs.has(value) &&
    value.users.size > 0 &&
    // What the seed itself multiplies belongs to the loss.
    [...value.users].every((user) => backward.has(user) && !user.inputs.includes(seed));
  for (const node of graph.nodes.toReversed())
    if (node.outputs.every((value) => !value || isBackward(value))) backward.add(node);
  for (const node of backward)
    for (const value of node.outputs)
      if (value && !outputs.has(value))
        value.shape = value.shape?.map((dim) => (typeof dim === 'string' ? `(${dim})` : dim)) ?? null;
}
