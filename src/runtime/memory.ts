import { byteLength } from '../onnx/dtype.ts';
import type { Model, Value } from '../onnx/graph.ts';
import { executionOrder } from '../passes/executionOrder.ts';
import { evaluate } from '../passes/symbolic.ts';

/** Lengths by the symbolic names of the graph's inputs. */
export type Lengths = Readonly<Record<string, number>>;

/** Operators whose output may share the memory of their first input. */
const views = new Set(['Reshape', 'Squeeze', 'Unsqueeze', 'Flatten', 'Identity']);

/**
 * Bytes of intermediate tensors that live at the same time at the worst moment of a run, in the order in which
 * the nodes are written: each tensor from the node that makes it to the last that reads it. Values of unknown
 * shape count as nothing.
 */
export function peakActivationBytes({ graph }: Model, lengths: Lengths): number {
  const nodes = executionOrder(graph);
  const size = (value: Value): number => {
    if (!value.dtype || !value.shape || value.dtype === 'string') return 0;
    let count = 1;
    for (const dim of value.shape) count *= evaluate(dim, lengths) ?? 0;
    return byteLength(value.dtype, count);
  };
  // A view keeps the tensor alive that it looks at.
  const root = new Map<Value, Value>();
  const rootOf = (value: Value): Value => root.get(value) ?? value;
  const lastUse = new Map<Value, number>();
  nodes.forEach((node, i) => {
    const first = node.inputs[0];
    if (views.has(node.op) && first && node.outputs[0]) root.set(node.outputs[0], rootOf(first));
    for (const value of node.inputs) if (value) lastUse.set(rootOf(value), i);
  });
  for (const value of graph.outputs) lastUse.set(rootOf(value), nodes.length);
  const ending = new Map<number, Value[]>();
  for (const [value, at] of lastUse) ending.set(at, [...(ending.get(at) ?? []), value]);
  let live = 0;
  let peak = 0;
  nodes.forEach((node, i) => {
    for (const value of node.outputs) if (value && rootOf(value) === value) live += size(value);
    peak = Math.max(peak, live);
    for (const value of ending.get(i) ?? []) if (value.producer && !value.initializer) live -= size(value);
    for (const value of node.outputs)
      if (value && rootOf(value) === value && !lastUse.has(value)) live -= size(value);
  });
  return peak;
}

/** Bytes of all constants of a graph. */
export function weightBytes({ graph }: Model): number {
  let total = 0;
  for (const { initializer } of graph.initializers) total += initializer!.byteLength;
  return total;
}
