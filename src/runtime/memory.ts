import { byteLength, type DType } from '../onnx/dtype.ts';
import type { Model, Node, Value } from '../onnx/graph.ts';
import { executionOrder } from '../passes/executionOrder.ts';
import { evaluate } from '../passes/symbolic.ts';
import { Arena } from './arena.ts';

/** Lengths by the symbolic names of the graph's inputs. */
export type Lengths = Readonly<Record<string, number>>;

/** Operators whose output is the memory of their first input. */
const views = new Set(['Reshape', 'Squeeze', 'Unsqueeze', 'Flatten', 'Identity']);

/** Operators that write over an input, by its place, where it has the same size and nothing reads it afterwards. */
const inPlace = new Map([
  ...['Softmax', 'ScatterElements', 'Tanh', 'Sigmoid', 'Relu', 'Clip'].map((op) => [op, 0] as const),
  ['FusedConv', 3],
]);

export interface ActivationBytes {
  /** Bytes of intermediate tensors that live at the same time at the worst moment of a run. */
  readonly live: number;
  /** What ONNX Runtime's arena holds after the run: live tensors and the gaps between them. */
  readonly arena: number;
}

/**
 * Memory for intermediate tensors of one run, in the order in which ONNX Runtime runs the nodes: each tensor lives
 * from the node that makes it to the last that reads it. Values of unknown shape count as nothing.
 */
export function activationBytes({ graph }: Model, lengths: Lengths): ActivationBytes {
  const nodes = executionOrder(graph);
  const owner = buffers(nodes, graph.outputs);
  const ends = new Map<Value, number>();
  nodes.forEach((node, i) => {
    for (const value of [...node.inputs, ...node.outputs]) if (value) ends.set(owner(value), i);
  });
  for (const value of graph.outputs) ends.set(owner(value), nodes.length);
  const ending = new Map<number, Value[]>();
  for (const [value, at] of ends) ending.set(at, [...(ending.get(at) ?? []), value]);
  const arena = new Arena();
  const chunks = new Map<Value, ReturnType<Arena['allocate']>>();
  let now = 0;
  let live = 0;
  nodes.forEach((node, i) => {
    for (const value of node.outputs) {
      if (!value || owner(value) !== value) continue;
      const size = sizeOf(value, lengths);
      chunks.set(value, arena.allocate(size));
      now += size;
    }
    live = Math.max(live, now);
    for (const value of ending.get(i) ?? []) {
      const chunk = chunks.get(value);
      if (!chunk) continue;
      arena.release(chunk);
      now -= sizeOf(value, lengths);
    }
  });
  return { live, arena: arena.resident };
}

/** The value whose memory a value is kept in: its own, that of what it is a view of, or that of an input used up. */
function buffers(nodes: readonly Node[], outputs: readonly Value[]): (value: Value) => Value {
  const lastReader = new Map<Value, Node>();
  for (const node of nodes) for (const value of node.inputs) if (value) lastReader.set(value, node);
  const owners = new Map<Value, Value>();
  const owner = (value: Value): Value => owners.get(value) ?? value;
  // All values in a buffer: it may be overwritten once none of them is to be read again.
  const inBuffer = new Map<Value, Value[]>();
  const kept = new Set(outputs);
  const done = new Set<Node>();
  for (const node of nodes) {
    done.add(node);
    const output = node.outputs[0];
    if (!output) continue;
    const usedUp = (value: Value) =>
      sameForOrt(value, output) &&
      (inBuffer.get(owner(value)) ?? []).every(
        (other) => !kept.has(other) && (!lastReader.has(other) || done.has(lastReader.get(other)!)),
      );
    const over = node.inputs[inPlace.get(node.op) ?? 0];
    if (over && inBuffer.has(owner(over)))
      if (views.has(node.op) || (inPlace.has(node.op) && usedUp(over))) owners.set(output, owner(over));
    for (const value of node.outputs)
      if (value) inBuffer.set(owner(value), [...(inBuffer.get(owner(value)) ?? []), value]);
  }
  return owner;
}

/**
 * Whether ONNX Runtime knows two shapes to be equal: it follows names of dimensions, but not arithmetic on them.
 */
function sameForOrt(a: Value, b: Value): boolean {
  if (a.dtype !== b.dtype || !a.shape || a.shape.length !== b.shape?.length) return false;
  return a.shape.every(
    (dim, axis) => dim === b.shape![axis] && (typeof dim === 'number' || /^\(?[\w.]+\)?$/.test(dim ?? '')),
  );
}

/** Bytes of a tensor; 0 where its shape is not known. */
function sizeOf({ dtype, shape }: Value, lengths: Lengths): number {
  if (!dtype || !shape || dtype === 'string') return 0;
  let count = 1;
  for (const dim of shape) count *= evaluate(dim, lengths) ?? 0;
  return byteLength(dtype, count);
}

/** Bytes of all constants of a graph, or of those of one type. */
export function weightBytes({ graph }: Model, dtype?: DType): number {
  let total = 0;
  for (const { initializer } of graph.initializers)
    if (!dtype || initializer!.dtype === dtype) total += initializer!.byteLength;
  return total;
}
