import { Graph, type Model, Node, type Value } from './graph.ts';

/**
 * A copy whose nodes and values are its own; tensors are shared, since they are never changed in place.
 * `outer` maps captured values of a subgraph to those of its new surroundings.
 */
function cloneGraph(graph: Graph, outer: ReadonlyMap<Value, Value> = new Map()): Graph {
  const copy = new Graph(graph.name);
  const values = new Map<Value, Value>(outer);
  const map = (value: Value | null): Value | null => {
    if (!value) return null;
    let twin = values.get(value);
    if (!twin) {
      twin = copy.value(value.name, value.dtype, value.shape);
      twin.initializer = value.initializer;
      values.set(value, twin);
    }
    return twin;
  };
  copy.inputs = graph.inputs.map((value) => map(value)!);
  for (const value of graph.initializers) copy.initializers.add(map(value)!);
  for (const node of graph.nodes) for (const value of node.outputs) map(value);
  for (const node of graph.nodes) {
    const twin = new Node(node.op, node.domain, node.name, node.inputs.map(map), node.outputs.map(map));
    if (node.name) copy.reserve(node.name);
    twin.metadata = node.metadata;
    for (const [name, attribute] of node.attributes)
      twin.setAttribute(
        name,
        attribute.type === 'graph'
          ? { type: 'graph', value: cloneGraph(attribute.value, values) }
          : attribute,
      );
    copy.add(twin);
  }
  copy.outputs = graph.outputs.map((value) => map(value)!);
  return copy;
}

export function cloneModel(model: Model): Model {
  return {
    ...model,
    opsets: new Map(model.opsets),
    metadata: new Map(model.metadata),
    graph: cloneGraph(model.graph),
  };
}
