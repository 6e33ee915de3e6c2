import { AloraError } from '../errors.ts';
import type { Graph, Model, Node } from '../onnx/graph.ts';
import { describe } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';

/** Reductions whose axes were an attribute until opset 17; ReduceSum's became an input in 13. */
const reductions = new Set([
  ...['ReduceMean', 'ReduceMax', 'ReduceMin', 'ReduceProd', 'ReduceL1', 'ReduceL2'],
  ...['ReduceLogSum', 'ReduceLogSumExp', 'ReduceSumSquare'],
]);

/** Operators whose meaning changed between opset 13 and 21 in ways that are not rewritten here, and the last opset that did. */
const changed: ReadonlyMap<string, number> = new Map([
  ['DFT', 20],
  ['GridSample', 20],
  ['GroupNormalization', 21],
  ['Resize', 19],
  ['RoiAlign', 16],
]);

/** Whether `raiseOpset` would do. */
export function canRaiseOpset({ graph, opsets }: Model, version: number): boolean {
  return firstChanged(graph, opsets.get('') ?? 1, version) === undefined;
}

/**
 * Rewrites a graph of opset 13 or newer in place for a newer operator set, at most 21: axes of reductions become
 * inputs, Split says into how many parts. Errors: MODEL_OPSET (model) for operators that would change meaning.
 */
export function raiseOpset(model: Model, version: number): void {
  const current = model.opsets.get('') ?? 1;
  if (current >= version) return;
  const node = firstChanged(model.graph, current, version);
  if (node)
    throw new AloraError(
      'model',
      'MODEL_OPSET',
      `${describe(node)} cannot be moved to a newer operator set`,
      {
        got: `opset ${current}`,
        allowed: `opset ${changed.get(node.op)} or newer`,
        fix: `Export the model with opset ${version}.`,
      },
    );
  if (current < 18 && version >= 18) raiseGraph(model.graph);
  model.opsets.set('', version);
  // Opset 21 came with IR version 10.
  model.irVersion = Math.max(model.irVersion, version >= 21 ? 10 : 8);
}

function firstChanged(graph: Graph, current: number, version: number): Node | undefined {
  for (const node of graph.nodes) {
    const since = node.domain === '' ? (changed.get(node.op) ?? 0) : 0;
    if (current < since && since <= version) return node;
    for (const subgraph of node.subgraphs()) {
      const inner = firstChanged(subgraph, current, version);
      if (inner) return inner;
    }
  }
  return undefined;
}

function raiseGraph(graph: Graph): void {
  for (const node of graph.nodes) {
    for (const subgraph of node.subgraphs()) raiseGraph(subgraph);
    if (node.domain !== '') continue;
    const axes = reductions.has(node.op) ? node.ints('axes') : undefined;
    if (axes) {
      node.setInput(1, graph.constant(`${node.name || node.output.name}/axes`, Tensor.int64(axes)));
      node.attributes.delete('axes');
    }
    if (node.op === 'Split' && !node.inputs[1])
      node.setAttribute('num_outputs', { type: 'int', value: node.outputs.length });
  }
}
