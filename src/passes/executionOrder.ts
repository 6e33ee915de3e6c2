import type { Graph, Node } from '../onnx/graph.ts';

const isLeaf = (node: Node) => node.outputs.every((value) => !value || value.users.size === 0);

/**
 * Writes the nodes in an order that ONNX Runtime executes as it stands, in place. It walks depth first from the
 * nodes whose results no node reads, the last in the file first: gradients of a training graph, written as they are
 * made, would run from the lowest block upwards after the whole backward pass, and keep alive until then what they
 * multiply. So those nodes go to the end of the file, in reverse.
 */
export function leavesLast(graph: Graph): void {
  graph.sort();
  const leaves = graph.nodes.filter(isLeaf);
  graph.nodes = [...graph.nodes.filter((node) => !isLeaf(node)), ...leaves.reverse()];
}

/** The nodes in the order in which ONNX Runtime (1.30, sequential) runs them, its fusions aside. */
export function executionOrder(graph: Graph): Node[] {
  const index = new Map(graph.nodes.map((node, i) => [node, i]));
  const order: Node[] = [];
  const seen = new Set<Node>();
  const stack = graph.nodes.filter(isLeaf).map((node) => ({ node, done: false }));
  while (stack.length > 0) {
    const { node, done } = stack.pop()!;
    if (done) order.push(node);
    if (done || seen.has(node)) continue;
    seen.add(node);
    stack.push({ node, done: true });
    const producers = new Set(node.inputs.flatMap((value) => value?.producer ?? []));
    const inOrder = [...producers]
      .filter((producer) => index.has(producer))
      .sort((a, b) => index.get(a)! - index.get(b)!);
    for (const producer of inOrder) stack.push({ node: producer, done: false });
  }
  return order;
}
