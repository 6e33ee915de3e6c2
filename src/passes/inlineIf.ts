import { type Graph, type Model, Node } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import { inferTypes } from './inferTypes.ts';

/**
 * Replaces in place every If whose condition is known by the nodes of the branch taken, nested ones included.
 * Node names stay those of the branch; values get names that are free in the outer graph. Returns how many were
 * replaced.
 */
export function inlineIf(model: Model): number {
  for (let count = 0; ; count++) {
    const { graph } = model;
    if (!graph.nodes.some((node) => node.op === 'If')) return count;
    const types = inferTypes(model);
    const known = graph.nodes.find((node) => {
      const condition = node.op === 'If' && node.inputs[0] ? types.items(node.inputs[0])?.[0] : undefined;
      return typeof condition === 'number';
    });
    if (!known) return count;
    const taken = types.items(known.inputs[0]!)![0] !== 0 ? 'then_branch' : 'else_branch';
    inline(graph, known, known.graph(taken)!);
  }
}

/**
 * Makes a merged decoder, which chooses by the input `use_cache_branch`, always take the branch with a cache, in place:
 * with a past of no positions it computes what the other does. Other known choices are made as well.
 */
export function takeCacheBranch(model: Model): void {
  const { graph } = model;
  const choice = graph.findInput('use_cache_branch');
  if (choice) {
    graph.inputs = graph.inputs.filter((input) => input !== choice);
    choice.initializer = Tensor.bool([true]);
    graph.initializers.add(choice);
  }
  inlineIf(model);
}

function inline(graph: Graph, choice: Node, branch: Graph): void {
  const captured = branch.captures();
  const results = [...choice.outputs];
  for (const constant of branch.initializers) {
    constant.name = graph.unique(constant.name);
    graph.initializers.add(constant);
  }
  for (const node of branch.nodes)
    for (const value of node.outputs) if (value) value.name = graph.unique(value.name);
  const nodes = branch.nodes.splice(0);
  for (const value of captured) value.users.delete(choice);
  graph.remove([choice]);
  graph.nodes.push(...nodes);
  // Identity keeps the names of the results, which may be the graph's outputs.
  branch.outputs.forEach((value, i) => {
    const result = results[i];
    if (result) graph.add(new Node('Identity', '', graph.unique(`${result.name}/chosen`), [value], [result]));
  });
  graph.sort();
}
