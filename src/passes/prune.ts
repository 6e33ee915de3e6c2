import { AloraError, nearest } from '../errors.ts';
import type { Graph, Node, Value } from '../onnx/graph.ts';

/** Nodes that some output of the graph depends on. */
function liveNodes(graph: Graph): Set<Node> {
  const live = new Set<Node>();
  const pending: (Value | null)[] = [...graph.outputs];
  while (pending.length > 0) {
    const node = pending.pop()?.producer;
    if (!node || live.has(node)) continue;
    live.add(node);
    pending.push(...node.inputs, ...node.subgraphs().flatMap((subgraph) => [...subgraph.captures()]));
  }
  return live;
}

/** Drops, in place, nodes and constants that no output depends on. Inputs stay. Returns the number of nodes dropped. */
export function prune(graph: Graph): number {
  const live = liveNodes(graph);
  const dead = graph.nodes.filter((node) => !live.has(node));
  if (dead.length > 0) graph.remove(dead);
  for (const constant of graph.initializers)
    if (constant.users.size === 0 && !graph.outputs.includes(constant) && !graph.inputs.includes(constant))
      graph.initializers.delete(constant);
  return dead.length;
}

/**
 * Makes `names` the only outputs, in this order, and drops in place everything that they do not need, unused
 * inputs included. A name may be any value of the graph. Errors: MODEL_NO_OUTPUT (model).
 */
export function keepOutputs(graph: Graph, names: readonly string[]): void {
  const values = new Map<string, Value>();
  for (const node of graph.nodes) for (const value of node.outputs) if (value) values.set(value.name, value);
  for (const value of graph.outputs) values.set(value.name, value);
  const declared = graph.outputs.map((value) => value.name);
  graph.outputs = names.map((name) => {
    const value = values.get(name);
    if (!value)
      throw new AloraError('model', 'MODEL_NO_OUTPUT', `The model has no output '${name}'`, {
        got: name,
        allowed: declared,
        didYouMean: nearest(name, declared),
        fix: 'Name an output of the model; `inspect` lists them.',
      });
    return value;
  });
  prune(graph);
  const unused = graph.inputs.filter((value) => value.users.size === 0 && !graph.outputs.includes(value));
  graph.inputs = graph.inputs.filter((value) => !unused.includes(value));
  for (const value of unused) graph.initializers.delete(value);
}
