import type { Builder } from '../onnx/builder.ts';
import type { Dim, Graph, Model, Node, Value } from '../onnx/graph.ts';
import { dependents, later } from '../passes/recompute.ts';
import { type RowPlan, rowRuleFor } from '../passes/rowRules.ts';
import { type CrossEntropy, crossEntropy } from './crossEntropy.ts';
import { differentiate, type Seed } from './differentiate.ts';

/** The last layers of a model: what computes logits, row by row, from narrower hidden states. */
export interface Head {
  /** [n, hidden]. */
  readonly hidden: Value;
  /** [n, classes]. */
  readonly logits: Value;
  /** In the order in which they run. */
  readonly layers: readonly { readonly node: Node; readonly plan: RowPlan }[];
}

/** Fewer classes are not worth a second product. */
const manyClasses = 2048;

/**
 * Chunks in a graph, and the rows that make another one worth its cost: each chunk reads the head's weight again,
 * which takes as long as computing about 35 rows (GPT-2's head, one thread). Of 508 rows, two chunks cost 2 % of a step
 * and save 6 % of its memory, a third would cost 2 % for 1 %.
 */
const mostChunks = 6;
const rowsOfChunk = 256;

/**
 * The head of a graph with logits [n, classes]; undefined where these are fewer than `fewest`, where a layer mixes
 * rows, or where one of `parameters` has its gradient from within.
 */
export function findHead(
  graph: Graph,
  logits: Value,
  parameters: readonly Value[],
  fewest = manyClasses,
): Head | undefined {
  const [rows, classes] = logits.shape ?? [];
  if (logits.shape?.length !== 2 || typeof rows !== 'string' || typeof classes !== 'number') return undefined;
  if (classes < fewest) return undefined;
  const plans = new Map<Node, RowPlan>();
  const narrow = new Set<Value>();
  const kept: Value[] = [];
  const pending = [logits];
  while (pending.length > 0) {
    const node = pending.pop()!.producer;
    if (!node || plans.has(node)) continue;
    const plan = rowRuleFor(node)?.(node, (value) => (value?.shape?.[0] === rows ? 1 : undefined));
    if (!plan || node.outputs.length > 1) return undefined;
    plans.set(node, plan);
    node.inputs.forEach((value, i) => {
      const role = plan.roles[i];
      if (!value || role === 'unused') return;
      if (role !== 'rows') kept.push(value);
      else if (value.shape?.at(-1) === classes) pending.push(value);
      else narrow.add(value);
    });
  }
  const [hidden] = narrow;
  const alone = [...plans.keys()].every(({ output }) =>
    [...output.users].every((user) => plans.has(user) && output.shape?.length === 2),
  );
  if (narrow.size !== 1 || !hidden || hidden.shape?.length !== 2 || !alone) return undefined;
  if (dependents(graph, parameters, kept).length > 0) return undefined;
  const layers = graph.nodes.flatMap((node) => (plans.has(node) ? [{ node, plan: plans.get(node)! }] : []));
  return { hidden, logits, layers };
}

/** Rows of each chunk, by the name of their dimension, where there are `rows` in all. */
export function chunkLengths(name: string, rows: number): Record<string, number> {
  const count = Math.max(1, Math.min(mostChunks, Math.floor((rows + rowsOfChunk / 2) / rowsOfChunk)));
  const size = Math.ceil(rows / count);
  return Object.fromEntries(
    Array.from({ length: mostChunks }, (_, k) => [
      `${name}.${k}`,
      Math.max(0, Math.min(size, rows - k * size)),
    ]),
  );
}

/**
 * Appends head, cross-entropy and their gradient for one chunk of rows after the other, each done before the next
 * begins, so that the logits of one chunk alone are in memory, and once: softmax and gradient take their place.
 * Values are those of the whole up to rounding. Where there are few rows, all but the first chunk are empty.
 *
 * @param targets int64 [n].
 * @param scale Weight of each row's loss in the gradient, a scalar.
 * @returns The loss of each row [n], and scale * d(sum of losses)/d(head.hidden) [n, hidden] to seed `differentiate`.
 */
export function chunkedLoss(
  model: Model,
  builder: Builder,
  head: Head,
  targets: Value,
  scale: Value,
): { losses: Value; seed: Seed } {
  const { hidden } = head;
  const chunks = chunksOf(model, builder, head, targets).map((chunk) => ({
    ...chunk,
    seed: chunk.loss.dLogits(),
  }));
  const gradients = differentiate(
    model.graph,
    chunks.map(({ logits, seed }) => [logits, seed] as const),
    chunks.map(({ input }) => input),
    { opset: model.opsets.get('')!, prefix: '/gradient/head' },
  );
  const dInputs = chunks.map(({ input }) => gradients.get(input)!);
  const losses = joinRows(
    builder,
    // A loss is there only when the gradient of its chunk is: then the chunk is over before the next one begins.
    chunks.map(({ loss }, k) => later(builder, loss.nll, dInputs[k]!)),
    targets.shape!,
  );
  const dHidden = builder.op('Mul', [joinRows(builder, dInputs, hidden.shape!), scale], {
    dtype: 'float32',
    shape: hidden.shape,
  });
  return { losses, seed: [hidden, dHidden] };
}

/**
 * The same without gradient: head and cross-entropy for one chunk of rows after the other.
 *
 * @param targets int64 [n].
 * @returns The loss of each row, float32 [n] in nats, and the index of its largest logit, int64 [n].
 */
export function chunkedPredictions(
  model: Model,
  builder: Builder,
  head: Head,
  targets: Value,
): { losses: Value; predictions: Value } {
  const chunks = chunksOf(model, builder, head, targets).map(({ loss }) => {
    const { nll } = loss;
    const argmax = loss.argmax();
    // Neither is there without the other: then the chunk is over before the next one begins.
    return { losses: later(builder, nll, argmax), predictions: later(builder, argmax, nll) };
  });
  const joined = (key: 'losses' | 'predictions') =>
    joinRows(
      builder,
      chunks.map((chunk) => chunk[key]),
      targets.shape!,
    );
  return { losses: joined('losses'), predictions: joined('predictions') };
}

interface Chunk {
  /** [m, hidden], m of the n rows. */
  readonly input: Value;
  /** [m, classes]. */
  readonly logits: Value;
  readonly loss: CrossEntropy;
}

function chunksOf({ opsets }: Model, builder: Builder, head: Head, targets: Value): Chunk[] {
  const { hidden } = head;
  return chunkBounds(builder, targets).map(({ from, to }, k) => {
    const length = `${hidden.shape![0]}.${k}`;
    const cut = (value: Value) =>
      builder.op('Slice', [value, from, to, builder.ints([0])], {
        dtype: value.dtype,
        shape: [length, ...value.shape!.slice(1)],
      });
    const input = cut(hidden);
    const logits = headOf(builder, head, input, length);
    return { input, logits, loss: crossEntropy(builder, logits, cut(targets), opsets.get('')!) };
  });
}

function joinRows(builder: Builder, parts: readonly Value[], shape: readonly Dim[]): Value {
  return builder.op('Concat', parts, { attributes: { axis: 0 }, dtype: parts[0]!.dtype, shape });
}

/** Where each chunk begins and ends, int64 [1] each, as `chunkLengths` has it. */
function chunkBounds(builder: Builder, targets: Value): { from: Value; to: Value }[] {
  const op = (name: string, a: Value, b: Value | number) =>
    builder.op(name, [a, typeof b === 'number' ? builder.ints([b]) : b], { dtype: 'int64', shape: [1] });
  const rows = builder.op('Shape', [targets], { dtype: 'int64', shape: [1] });
  const wanted = op('Div', op('Add', rows, rowsOfChunk / 2), rowsOfChunk);
  const count = op('Max', op('Min', wanted, mostChunks), 1);
  const size = op('Div', op('Sub', op('Add', rows, count), 1), count);
  const starts = Array.from({ length: mostChunks + 1 }, (_, k) => op('Mul', size, k));
  return starts.slice(1).map((to, k) => ({ from: starts[k]!, to }));
}

/** The head's layers again, on some of the rows. */
function headOf(builder: Builder, { hidden, logits, layers }: Head, input: Value, length: Dim): Value {
  const chosen = new Map([[hidden, input]]);
  for (const { node, plan } of layers) {
    const inputs = node.inputs.map((value, i) => {
      if (!value || plan.roles[i] === 'unused') return null;
      return plan.roles[i] === 'rows' ? chosen.get(value)! : value;
    });
    const [output] = plan.emit(builder, inputs);
    output!.dtype = node.output.dtype;
    output!.shape = [length, ...node.output.shape!.slice(1)];
    chosen.set(node.output, output!);
  }
  return chosen.get(logits)!;
}
