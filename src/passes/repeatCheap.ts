import { Builder } from '../onnx/builder.ts';
import { isFloat } from '../onnx/dtype.ts';
import { type Graph, type Node, quotientOf, type Value } from '../onnx/graph.ts';
import { swapped } from './readTransposed.ts';
import { later, repeat } from './recompute.ts';

/** Element-wise operators whose operands may be narrower than the result. */
const broadcasting = new Set(['Add', 'Sub', 'Mul', 'Div', 'Where']);

/** Operators that cost a pass or two over their result, or nothing. */
const cheap = new Set([
  ...[...broadcasting, 'Neg', 'Sigmoid', 'Tanh', 'Erf', 'Gelu', 'Relu', 'Softmax', 'LayerNormalization'],
  ...['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze'],
]);

/** The longest rows and columns whose products are computed again: attention scores, by the width of a head. */
const widestHead = 256;

/** Narrower values are not worth a pass. */
const narrowest = 64;

/**
 * In a graph with its gradient, in place: activations that the backward nodes read and that follow element by element
 * from others that stay in memory anyway are computed again where they are read: the output of an activation function,
 * a normalised state, keys and values repeated for several heads of queries; and so are the probabilities of attention,
 * by a short product of queries and keys. About a fiftieth of the time for a quarter of the memory, more in long rows.
 * An activation y of x whose gradient computes y / x is x times that.
 *
 * @param forward The nodes before differentiation.
 * @param seeds The gradients that the backward pass starts from.
 * @returns The number of nodes that run twice.
 */
export function repeatCheap(graph: Graph, forward: ReadonlySet<Node>, seeds: readonly Value[]): number {
  graph.sort();
  const backward = graph.nodes.filter((node) => !forward.has(node) && node.op !== 'Shape');
  const readers = new Map<Value, Node[]>();
  for (const node of backward)
    for (const value of new Set(node.inputs))
      if (value?.producer && forward.has(value.producer))
        readers.set(value, [...(readers.get(value) ?? []), node]);

  // 'there': needs no memory of its own or stays in memory; 'again': can be computed from values that are there.
  const states = new Map<Value, 'there' | 'again' | 'gone'>();
  const stateOf = (value: Value) =>
    !value.producer || (value.dtype && !isFloat(value.dtype)) ? 'there' : (states.get(value) ?? 'gone');
  // Scores and what follows from them: wide, though their last length is that of a row of tokens.
  const ofScores = new Set<Value>();
  for (const node of graph.nodes) {
    if (!forward.has(node)) continue;
    if (node.op === 'Expand' && node.domain === '') {
      // Heads of keys and values that several heads of queries share: the narrower tensor stays in their place.
      const [source] = node.inputs;
      if (stateOf(source!) === 'gone') states.set(source!, 'there');
      states.set(node.output, 'again');
      continue;
    }
    const isScores = isShortProduct(node);
    const missing = node.inputs.filter((value): value is Value => !!value && stateOf(value) === 'gone');
    const fromThere =
      (isScores && missing.length === 0) ||
      (isCheap(node) &&
        missing.every((value) => broadcasting.has(node.op) && isNarrower(value, node.output)));
    // A mask that all heads share stays in place of what it is added to.
    if (fromThere) for (const value of missing) states.set(value, 'there');
    for (const value of node.outputs)
      if (value) states.set(value, fromThere ? 'again' : readers.has(value) ? 'there' : 'gone');
    if (fromThere && (isScores || node.inputs.some((value) => value && ofScores.has(value))))
      ofScores.add(node.output);
  }

  const builder = new Builder(graph, '/again');
  const twins = new Map<Value, Value>();
  const quotients = new Map<string, Value>();
  for (const node of backward) {
    const of = node.metadata.get(quotientOf);
    if (of !== undefined) quotients.set(of, node.output);
  }
  let repeated = 0;
  const twinOf = (value: Value, after: Value): Value => {
    if (!value.producer || !value.dtype || !isFloat(value.dtype)) return value;
    let twin = twins.get(value);
    if (!twin && stateOf(value) === 'there') {
      twin = later(builder, value, after);
      twins.set(value, twin);
    } else if (!twin && quotients.has(value.name)) {
      const { dtype, shape } = value;
      const quotient = quotients.get(value.name)!;
      let x = value.producer.inputs[0]!;
      const made = [...quotient.users].find(({ op, inputs }) => op === 'Mul' && inputs.includes(x));
      if (stateOf(x) === 'again') x = twinOf(x, after);
      twin = made?.output ?? builder.op('Mul', [x, quotient], { dtype, shape });
      twins.set(value, twin);
      repeated++;
    } else if (!twin) {
      for (const input of value.producer.inputs) if (input) twinOf(input, after);
      repeat(graph, value.producer, twins);
      repeated++;
      twin = twins.get(value)!;
    }
    return twin;
  };
  for (const { reader, after } of readingOrder(backward, seeds))
    reader.inputs.forEach((value, i) => {
      if (!value || !readers.has(value) || states.get(value) !== 'again') return;
      const width = value.shape?.at(-1);
      if (twins.has(value) || ofScores.has(value) || (typeof width === 'number' && width >= narrowest))
        reader.setInput(i, twinOf(value, after));
    });
  graph.sort();
  return repeated;
}

/** A transpose that products absorb costs nothing. */
function isCheap({ op, domain, output }: Node): boolean {
  return domain === '' && (cheap.has(op) || (op === 'Transpose' && swapped(output, 3) !== undefined));
}

/** A product of two activations in which each number is the sum of few. */
function isShortProduct(node: Node): boolean {
  const isProduct =
    (node.domain === '' && node.op === 'MatMul') ||
    (node.domain === 'com.microsoft' && node.op === 'FusedMatMul');
  if (!isProduct || node.int('transBatchA', 0) !== 0 || node.int('transBatchB', 0) !== 0) return false;
  const [a, b] = node.inputs;
  if (!a?.producer || !b?.producer || (a.shape?.length ?? 0) < 3 || (b.shape?.length ?? 0) < 3) return false;
  const inner = a.shape!.at(node.int('transA', 0) === 1 ? -2 : -1);
  return typeof inner === 'number' && inner <= widestHead;
}

/** Whether a value is repeated along some axis where it meets the other operands. */
function isNarrower({ shape }: Value, { shape: whole }: Value): boolean {
  if (!shape || !whole) return false;
  const missing = whole.length - shape.length;
  return whole.some((dim, axis) => dim !== 1 && (axis < missing || shape[axis - missing] === 1));
}

/**
 * The backward nodes in the order in which their results meet a gradient, each with that gradient: what the first
 * reader of a value waits for does not wait for any other reader of it.
 */
function readingOrder(backward: readonly Node[], seeds: readonly Value[]): { reader: Node; after: Value }[] {
  const gradients = new Set(seeds);
  const place = new Map(backward.map((node, i) => [node, i]));
  for (const node of backward)
    if (node.inputs.some((value) => value && gradients.has(value)))
      for (const value of node.outputs) if (value) gradients.add(value);
  const met = new Map<Node, { at: number; after: Value }>();
  for (const node of backward.toReversed()) {
    const own = node.inputs.find((value) => value && gradients.has(value) && value.shape?.length);
    if (own) met.set(node, { at: place.get(node)!, after: own });
    else {
      // A view, or a factor that is computed beforehand: its readers meet the gradient.
      const users = node.outputs.flatMap((value) =>
        [...(value?.users ?? [])].flatMap((user) => met.get(user) ?? []),
      );
      const first = users.sort((a, b) => a.at - b.at)[0];
      if (first) met.set(node, first);
    }
  }
  return [...met]
    .map(([reader, { at, after }]) => ({ reader, at, after }))
    .sort((a, b) => a.at - b.at || place.get(a.reader)! - place.get(b.reader)!);
}
