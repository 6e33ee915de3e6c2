import { AloraError } from '../errors.ts';
import type { Graph, Model } from '../onnx/graph.ts';
import { describe } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';

/** Reductions whose axes were an attribute until opset 17; ReduceSum's became an input in 13. */
const reductions = new Set([
  ...['ReduceMean', 'ReduceMax', 'ReduceMin', 'ReduceProd', 'ReduceL1', 'ReduceL2'],
  ...['ReduceLogSum', 'ReduceLogSumExp', 'ReduceSumSquare'],
]);

/** Operators whose meaning changed between opset 13 and 21 in ways that are not rewritten here. */
const changed = new Set(['Resize', 'Upsample', 'RoiAlign', 'GroupNormalization']);

/**
 * Rewrites a graph of opset 13 or newer in place for a newer operator set, at most 21: axes of reductions become
 * inputs, Split says into how many parts. Errors: MODEL_OPSET (model) for operators that would change meaning.
 */
export function raiseOpset(model: Model, version: number): void {
  const current = model.opsets.get('') ?? 1;
  if (current >= version) return;
  if (current < 18 && version >= 18) raiseGraph(model.graph);
  model.opsets.set('', version);
  // Opset 21 came with IR version 10.
  model.irVersion = Math.max(model.irVersion, version >= 21 ? 10 : 8);
}

function raiseGraph(graph: Graph): void {
  for (const node of graph.nodes) {
    for (const subgraph of node.subgraphs()) raiseGraph(subgraph);
    if (node.domain !== '') continue;
    if (changed.has(node.op))
      throw new AloraError(
        'model',
        'MODEL_OPSET',
        `${describe(node)} cannot be moved to a newer operator set`,
        {
          fix: 'Export the model with opset 21.',
        },
      );
    const axes = reductions.has(node.op) ? node.ints('axes') : undefined;
    if (axes) {
      node.setInput(1, graph.constant(`${node.name || node.output.name}/axes`, Tensor.int64(axes)));
      node.attributes.delete('axes');
    }
    if (node.op === 'Split' && !node.inputs[1])
      node.setAttribute('num_outputs', { type: 'int', value: node.outputs.length });
  }
}
