import { byteLength } from './src/onnx/dtype.ts';
import type { Model, Node, Value } from './src/onnx/graph.ts';
import { executionOrder } from './src/passes/executionOrder.ts';
import { evaluate } from './src/passes/symbolic.ts';
import { Arena } from './src/runtime/arena.ts';

/** Lengths by the symbolic names of the graph's inputs. */
export type Lengths = Readonly<Record<string, number>>;

/** Operators whose output is the memory of their first input. */
const views = new Set(['Reshape', 'Squeeze', 'Unsqueeze', 'Flatten', 'Identity']);

/** Operators that write over their first input where it has the same size and nothing reads it afterwards. */
const inPlace = new Set(['Softmax', 'ScatterElements', 'Tanh', 'Sigmoid', 'Relu', 'Clip']);

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
    const first = node.inputs[0];
    if (first && inBuffer.has(owner(first)))
      if (views.has(node.op) || (inPlace.has(node.op) && usedUp(first))) owners.set(output, owner(first));
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
    (dim, axis) => dim === b.shape![axis] && (typeof dim === 'number' || /^[\w.]+$/.test(dim ?? '')),
  );
}

/** Bytes of a tensor; 0 where its shape is not known. */
function sizeOf({ dtype, shape }: Value, lengths: Lengths): number {
  if (!dtype || !shape || dtype === 'string') return 0;
  let count = 1;
  for (const dim of shape) count *= evaluate(dim, lengths) ?? 0;
  return byteLength(dtype, count);
}

/** Bytes of all constants of a graph. */
export function weightBytes({ graph }: Model): number {
  let total = 0;
  for (const { initializer } of graph.initializers) total += initializer!.byteLength;
  return total;
}

/** Debug. */
export function peakTensors({ graph }: Model, lengths: Lengths): string[] {
  const nodes = executionOrder(graph);
  const owner = buffers(nodes, graph.outputs);
  const ends = new Map<Value, number>();
  const starts = new Map<Value, number>();
  nodes.forEach((node, i) => {
    for (const value of node.outputs) if (value && owner(value) === value) starts.set(value, i);
    for (const value of [...node.inputs, ...node.outputs]) if (value) ends.set(owner(value), i);
  });
  for (const value of graph.outputs) ends.set(owner(value), nodes.length);
  let best = 0, at = 0;
  const delta = new Float64Array(nodes.length + 2);
  for (const [v, s] of starts) { const b = sizeOf(v, lengths); delta[s]! += b; delta[ends.get(v)! + 1]! -= b; }
  let now = 0;
  for (let i = 0; i < nodes.length; i++) { now += delta[i]!; if (now > best) { best = now; at = i; } }
  const live = [...starts].filter(([v, s]) => s <= at && ends.get(v)! >= at).map(([v]) => v);
  const groups = new Map<string, { n: number; bytes: number; ex: string }>();
  for (const v of live) {
    const key = v.name.replace(/\d+/g, '#') + ' [' + v.shape + '] ' + v.producer?.op;
    const g = groups.get(key) ?? { n: 0, bytes: 0, ex: v.name };
    g.n++; g.bytes += sizeOf(v, lengths); groups.set(key, g);
  }
  return [`peak at node ${at}/${nodes.length} ${nodes[at]!.op} ${nodes[at]!.name}: ${(best / 1e6).toFixed(1)}`,
    ...[...groups].sort((a, b) => b[1].bytes - a[1].bytes).map(([k, g]) => `${(g.bytes / 1e6).toFixed(1)} MB  x${g.n}  ${k}`)];
}
