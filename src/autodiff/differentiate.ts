import { AloraError } from '../errors.ts';
import { Builder } from '../onnx/builder.ts';
import { dtypeOf, isFloat } from '../onnx/dtype.ts';
import { constantForGradient, describe, type Graph, type Node, type Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import { Emitter } from './emitter.ts';
import { gradients, stops } from './gradients/index.ts';
import { type Gradient, noGradient } from './rule.ts';

/** A value and the gradient of the loss with respect to it, of the same shape, given by the caller. */
export type Seed = readonly [value: Value, gradient: Value];

export interface DifferentiateOptions {
  /** Version of ai.onnx in the model's opset imports; the emitted nodes are valid in it. At least 13. */
  readonly opset: number;
  /** Values that count as constants: nothing flows through them, such as the row maximum in a log-softmax. */
  readonly stopAt?: ReadonlySet<Value>;
  /** First part of the new nodes' names. Default `grad`. */
  readonly prefix?: string;
}

/**
 * Appends the reverse-mode gradient of `of` with respect to `wrt` to the graph, as ai.onnx nodes, and returns
 * the gradient of each `wrt`: a value of its own with the same dtype and shape, or null where no path leads
 * from it to the loss (its gradient is zero; no tensor is made for it).
 *
 * Only nodes on a path from `wrt` to the loss are visited, and nothing is written for their other inputs, so
 * frozen weights cost nothing. The graph's nodes are sorted on the way; a LayerNormalization on the path may
 * get its statistics as further outputs. Shapes and dtypes of values make the result cheaper where known,
 * not different.
 *
 * @param of The loss (one element, rank 0 or shape [1]), or seeds: values with their upstream gradients.
 * @throws MODEL_NO_GRADIENT for an operator on the path without a gradient, MODEL_OPSET below opset 13.
 */
export function differentiate(
  graph: Graph,
  of: Value | readonly Seed[],
  wrt: readonly Value[],
  options: DifferentiateOptions,
): Map<Value, Value | null> {
  const { opset, stopAt = new Set(), prefix = 'grad' } = options;
  if (opset < 13)
    throw new AloraError('model', 'MODEL_OPSET', 'Gradients need operator set 13 or newer', {
      got: opset,
      allowed: '13 or newer',
      fix: 'Export the model again with a newer opset.',
    });
  graph.sort();
  const forward = [...graph.nodes];
  const emitter = new Emitter(new Builder(graph, prefix), opset);
  const targets = 'length' in of ? of.map(([value]) => value) : [of];
  const path = findPath(forward, wrt, targets, stopAt);
  inferTypesOnPath(forward, path);
  const seeds: readonly Seed[] = 'length' in of ? of : [[of, one(emitter, of)]];

  const gradientOf = new Map<Value, Value>();
  const accumulate = (value: Value, gradient: Value) => {
    gradient.dtype ??= value.dtype;
    gradient.shape ??= value.shape;
    const sum = gradientOf.get(value);
    gradientOf.set(value, sum ? emitter.add(sum, gradient) : gradient);
  };
  for (const [value, gradient] of seeds) if (path.has(value)) accumulate(value, gradient);

  for (const node of forward.reverse()) {
    const dOutputs = node.outputs.map((value) => (value && gradientOf.get(value)) ?? null);
    if (dOutputs.every((gradient) => gradient === null) || !reads(node, path)) continue;
    emitter.scope = node.name.replace(/^\//, '') || node.op;
    const thunks = gradientRule(node)({
      node,
      x: node.inputs.map((value) => value ?? undefined),
      y: node.output,
      get dy() {
        const dy = dOutputs[0];
        if (!dy) throw noGradient(node, 'only its secondary outputs lead to the loss');
        return dy;
      },
      dOutputs,
      e: emitter,
      isInner: (value) => path.has(value) && !wrt.includes(value),
      refuse(reason) {
        throw noGradient(node, reason);
      },
    });
    // Left fold, in input order: the sum's order, hence its rounding, is that of the graph.
    node.inputs.forEach((value, i) => {
      if (!value || !path.has(value)) return;
      const thunk = thunks[i];
      if (!thunk) throw noGradient(node, `it has none with respect to input ${i}`);
      const gradient = thunk();
      if (!gradient) return;
      expectType(node, i, value, gradient);
      accumulate(value, gradient);
    });
  }
  emitter.scope = '';
  const result = distinct(emitter, wrt, gradientOf, seeds);
  removeUnused(graph, new Set(forward), result);
  return result;
}

/** A gradient has the type of its value: anything else is a mistake in the operator's rule. */
function expectType(node: Node, input: number, value: Value, gradient: Value): void {
  const differ = <T>(a: T | null, b: T | null) => a !== null && b !== null && a !== b;
  const [wanted, got] = [value.shape, gradient.shape];
  const numbers = (dim: unknown) => (typeof dim === 'number' ? dim : null);
  if (
    differ(value.dtype, gradient.dtype) ||
    (wanted && got && differ(wanted.length, got.length)) ||
    wanted?.some((dim, axis) => differ(numbers(dim), numbers(got?.[axis] ?? null)))
  )
    throw new Error(
      `The gradient of ${describe(node)} for input ${input} is ${gradient.dtype} [${got}], not ${value.dtype} [${wanted}]`,
    );
}

/** The gradient of a loss with respect to itself. */
function one(emitter: Emitter, loss: Value): Value {
  const shape = loss.shape;
  if (shape && (shape.length > 1 || (shape.length === 1 && shape[0] !== 1 && shape[0] !== null)))
    throw new AloraError('model', 'MODEL_LOSS_SHAPE', `The loss ${loss.name} must have one element`, {
      got: `shape [${shape.join(', ')}]`,
      allowed: 'shape [] or [1]',
      fix: 'Reduce it to a scalar, or give its upstream gradient as a seed.',
    });
  const dtype = emitter.dtype(loss);
  if (shape?.length === 0) return emitter.builder.scalar(1, dtype);
  if (shape?.[0] === 1) return emitter.builder.constant('one', Tensor.of(dtype, [1], [1]));
  return emitter.op('Expand', [emitter.builder.scalar(1, dtype), emitter.lengths.of(loss)], {}, { dtype });
}

/** Values that depend on `from` and that one of `to` depends on, `from` and `to` included where they qualify. */
function findPath(
  nodes: readonly Node[],
  from: readonly Value[],
  to: readonly Value[],
  stopAt: ReadonlySet<Value>,
): Set<Value> {
  const depends = new Set<Value>(from);
  for (const node of nodes) {
    if (isStop(node) || !reads(node, depends)) continue;
    for (const value of node.outputs)
      if (value && !stopAt.has(value) && (value.dtype === null || isFloat(value.dtype))) depends.add(value);
  }
  const path = new Set<Value>(to.filter((value) => depends.has(value)));
  for (const node of [...nodes].reverse()) {
    if (isStop(node) || !node.outputs.some((value) => value && path.has(value))) continue;
    for (const value of node.inputs) if (value && depends.has(value)) path.add(value);
    for (const body of node.subgraphs())
      for (const value of body.captures()) if (depends.has(value)) path.add(value);
  }
  return path;
}

function reads(node: Node, values: ReadonlySet<Value>): boolean {
  if (node.inputs.some((value) => value && values.has(value))) return true;
  return node.subgraphs().some((body) => [...body.captures()].some((value) => values.has(value)));
}

/** Whether a node's result does not vary smoothly with its inputs: its derivative is zero or undefined. */
function isStop(node: Node): boolean {
  if (node.metadata.has(constantForGradient)) return true;
  if (node.domain !== '') return false;
  if (node.op === 'Cast') {
    const to = dtypeOf(node.int('to', 1));
    return to !== undefined && !isFloat(to);
  }
  return stops.has(node.op);
}

/** Fills in missing dtypes: every differentiable operator keeps its input's, but for casts. */
function inferTypesOnPath(nodes: readonly Node[], path: ReadonlySet<Value>): void {
  for (const node of nodes) {
    const y = node.outputs[0];
    if (!y || y.dtype !== null || !path.has(y)) continue;
    const source = node.inputs.find((value) => value && path.has(value) && value.dtype !== null);
    const cast = node.op === 'Cast' ? dtypeOf(node.int('to', 1)) : undefined;
    const dtype = cast ?? source?.dtype ?? null;
    for (const value of node.outputs) if (value) value.dtype ??= dtype;
  }
}

function gradientRule(node: Node): Gradient {
  const rule = findRule(node);
  if (rule) return rule;
  const reason =
    node.subgraphs().length > 0 ? 'control flow is not differentiated' : 'the operator is not covered';
  throw noGradient(node, reason);
}

function findRule(node: Node): Gradient | undefined {
  const name = node.domain === '' ? node.op : `${node.domain}.${node.op}`;
  return Object.hasOwn(gradients, name) ? (gradients as Record<string, Gradient>)[name] : undefined;
}

/** An operator that `differentiate` would refuse. */
export interface Uncovered {
  readonly node: Node;
  /** Operator with its domain, as `com.microsoft.Attention`. */
  readonly op: string;
}

/**
 * Nodes without a gradient on the paths from `wrt` to `outputs`, in graph order. Sorts the graph's nodes.
 * It goes by operator: a form of a covered operator that its rule refuses shows only in `differentiate`.
 */
export function uncovered(graph: Graph, outputs: readonly Value[], wrt: readonly Value[]): Uncovered[] {
  graph.sort();
  const path = findPath(graph.nodes, wrt, outputs, new Set());
  return graph.nodes
    .filter((node) => !isStop(node) && node.outputs.some((value) => value && path.has(value)))
    .filter((node) => reads(node, path) && !findRule(node))
    .map((node) => ({ node, op: node.domain === '' ? node.op : `${node.domain}.${node.op}` }));
}

/** One value per gradient: an Identity where two gradients, or a gradient and a seed, are the same value. */
function distinct(
  emitter: Emitter,
  wrt: readonly Value[],
  gradientOf: ReadonlyMap<Value, Value>,
  seeds: readonly Seed[],
): Map<Value, Value | null> {
  const taken = new Set(seeds.map(([, gradient]) => gradient));
  const result = new Map<Value, Value | null>();
  for (const value of wrt) {
    if (result.has(value)) continue;
    let gradient = gradientOf.get(value) ?? null;
    if (gradient && (taken.has(gradient) || gradient.initializer))
      gradient = emitter.unary('Identity', gradient);
    if (gradient) taken.add(gradient);
    result.set(value, gradient);
  }
  return result;
}

/** Drops new nodes and constants that nothing reads: rules may write what a later simplification bypasses. */
function removeUnused(
  graph: Graph,
  forward: ReadonlySet<Node>,
  result: ReadonlyMap<Value, Value | null>,
): void {
  const needed = new Set<Value | null>([...result.values(), ...graph.outputs]);
  const unused = new Set<Node>();
  const used = (value: Value | null) =>
    value !== null && (needed.has(value) || [...value.users].some((user) => !unused.has(user)));
  // New nodes are in the order of their making: users come after what they use.
  for (const node of [...graph.nodes].reverse())
    if (!forward.has(node) && !node.outputs.some(used)) unused.add(node);
  const constants = [...unused].flatMap((node) => node.inputs.filter((value) => value?.initializer));
  graph.remove(unused);
  for (const value of constants)
    if (value!.users.size === 0 && !needed.has(value!)) graph.initializers.delete(value!);
}
