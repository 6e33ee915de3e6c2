import { Builder } from '../onnx/builder.ts';
import { type Graph, Node, type Value } from '../onnx/graph.ts';
import type { Segments } from './segments.ts';

/** Operators whose result holds lengths only: they read no numbers that would have to be there again. */
const measures = new Set(['Shape', 'Size']);

/**
 * Trades time for memory in a graph with its gradient, in place (Chen et al. 2016, "Training Deep Nets with
 * Sublinear Memory Cost"): of each segment only the cut that it starts from stays in memory, and its backward nodes
 * read activations that are computed again from there. The repetition starts from the cut behind a Reshape to its
 * own shape, which is written so that it depends on the gradient at the segment's end: it cannot run earlier, and
 * is no common subexpression of the first run.
 *
 * @param forward The nodes before differentiation.
 * @param gradientOf Gradient of a cut; undefined where nothing below it is trained, and nothing is repeated.
 * @returns The number of nodes that run twice.
 */
export function recompute(
  graph: Graph,
  segments: Segments,
  forward: ReadonlySet<Node>,
  gradientOf: (cut: Value) => Value | undefined,
): number {
  const builder = new Builder(graph, '/again');
  const backward = graph.nodes.filter((node) => !forward.has(node) && !measures.has(node.op));
  const { cuts } = segments;
  const inSegment: Node[][] = cuts.map(() => []);
  for (const node of forward) {
    const segment = segments.segmentOf(node);
    if (segment !== null) inSegment[segment]?.push(node);
  }
  let repeated = 0;
  // The last segment's backward follows its forward at once.
  for (let i = 1; i < cuts.length; i++) {
    const [start, end] = [cuts[i - 1]!, cuts[i]!];
    const gradient = gradientOf(end);
    if (!gradient) continue;
    const own = new Set<Value>();
    for (const node of inSegment[i]!)
      for (const value of node.outputs) if (value && value !== end) own.add(value);
    const readers = backward.filter((node) => node.inputs.some((value) => value && own.has(value)));
    if (readers.length === 0) continue;
    const needed = producersWithin(
      own,
      readers.flatMap((node) => node.inputs),
    );
    const again = new Map<Value, Value>([[start, later(builder, start, gradient)]]);
    for (const node of inSegment[i]!) if (needed.has(node)) repeat(graph, node, again);
    for (const node of readers)
      node.inputs.forEach((value, at) => {
        if (value && own.has(value)) node.setInput(at, again.get(value)!);
      });
    repeated += needed.size;
  }
  graph.sort();
  return repeated;
}

/** Nodes that compute the given values, as far as they make values of `own`. */
function producersWithin(own: ReadonlySet<Value>, from: readonly (Value | null)[]): Set<Node> {
  const found = new Set<Node>();
  const pending = [...from];
  while (pending.length > 0) {
    const value = pending.pop();
    if (!value || !own.has(value) || found.has(value.producer!)) continue;
    found.add(value.producer!);
    pending.push(...value.producer!.inputs);
  }
  return found;
}

/** The value itself, without a copy, but not before `after` is there: 0 times a length of it goes into the shape. */
export function later(builder: Builder, value: Value, after: Value): Value {
  const int64 = { dtype: 'int64' } as const;
  const length = builder.op('Gather', [builder.op('Shape', [after], int64), builder.ints([0])], int64);
  const nothing = builder.op('Mul', [length, builder.ints([0])], int64);
  const shape = builder.op('Add', [builder.op('Shape', [value], int64), nothing], int64);
  return builder.op('Reshape', [value, shape], { dtype: value.dtype, shape: value.shape });
}

export function repeat(graph: Graph, node: Node, again: Map<Value, Value>): void {
  const twinOf = (value: Value | null) => {
    if (!value) return null;
    const twin = graph.value(`${value.name}/again`, value.dtype, value.shape);
    again.set(value, twin);
    return twin;
  };
  const inputs = node.inputs.map((value) => (value && again.get(value)) ?? value);
  const twin = new Node(
    node.op,
    node.domain,
    graph.unique(`${node.name}/again`),
    inputs,
    node.outputs.map(twinOf),
  );
  for (const [name, attribute] of node.attributes) twin.setAttribute(name, attribute);
  twin.metadata = node.metadata;
  graph.add(twin);
}

/** Those of `values` that depend on one of `from`. */
export function dependents(graph: Graph, from: readonly Value[], values: readonly Value[]): Value[] {
  graph.sort();
  const reached = new Set(from);
  for (const node of graph.nodes)
    if (node.inputs.some((value) => value && reached.has(value)))
      for (const value of node.outputs) if (value) reached.add(value);
  return values.filter((value) => reached.has(value));
}
