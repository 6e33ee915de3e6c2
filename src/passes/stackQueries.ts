import { Builder } from '../onnx/builder.ts';
import type { Dim, Model, Node, Value } from '../onnx/graph.ts';
import { inferTypes } from './inferTypes.ts';
import { roundsActivations } from './lower/dynamicQuantized.ts';
import { prune } from './prune.ts';
import { product } from './symbolic.ts';

/**
 * Lets heads of queries that share keys and values read them as they are, in place, where the file repeats them for
 * each head: a product of [batch, heads, length, n] with keys or values [batch, groups, ...] that Expand repeats
 * heads / groups times becomes one of [batch, groups, heads / groups * length, n] with the keys or values themselves.
 * No copies, larger products, and in the gradient no sum over the heads of a group. Returns how many products changed;
 * none where activations are rounded to 8 bits (see addLowRank).
 */
export function stackQueries(model: Model): number {
  const { graph } = model;
  if (!graph.nodes.some(({ op }) => op === 'Expand') || roundsActivations(graph)) return 0;
  inferTypes(model);
  let changed = 0;
  for (const node of graph.nodes.filter(({ op, domain }) => op === 'MatMul' && domain === '')) {
    const make = new Builder(graph, '');
    const repeated = readRepeated(make, node.inputs[1]!);
    if (!repeated || !isStackable(node, repeated)) continue;
    const name = (node.name || node.op).replace(/^\//, '');
    const { groups } = repeated;
    const { dtype } = node.output;
    const [batch, heads, length, inner] = node.inputs[0]!.shape!;
    const rows = product([(heads as number) / groups, length!]);
    const stacked = make.op('Reshape', [node.inputs[0]!, make.ints([0, groups, -1, 0])], {
      name: `${name}/stack`,
      dtype,
      shape: [batch!, groups, rows, inner!],
    });
    const shape = [batch!, groups, rows, node.output.shape!.at(-1)!];
    let total = make.op('MatMul', [stacked, repeated.shared()], { name: `${name}/stacked`, dtype, shape });
    total.producer!.metadata = node.metadata;
    // ONNX Runtime lets the product multiply by a number that comes right after it.
    const scaling = graph.outputs.includes(node.output) ? undefined : scaledBy(node.output);
    if (scaling)
      total = make.op(scaling.op, [total, scaling.inputs[1]!], { name: `${name}/scaled`, dtype, shape });
    const end = scaling?.output ?? node.output;
    const apart = make.op('Reshape', [total, make.ints([0, heads as number, -1, 0])], {
      name: `${name}/unstack`,
      dtype,
      shape: end.shape,
    });
    graph.takePlace(end, apart);
    changed++;
  }
  if (changed > 0) {
    prune(graph);
    graph.sort();
  }
  return changed;
}

interface Repeated {
  readonly groups: number;
  /** How many heads read each. */
  readonly times: number;
  /** Writes the operand [batch, groups, ...] before it was repeated. */
  readonly shared: () => Value;
}

/** Keys or values that are repeated along the heads, whatever their last axes' order and scale. */
function readRepeated(make: Builder, value: Value): Repeated | undefined {
  const node = value.producer;
  if (node?.domain !== '' || value.shape?.length !== 4) return undefined;
  const { dtype } = value;
  const above = (inner: Repeated | undefined, write: (narrow: Value) => Value) =>
    inner && { ...inner, shared: () => write(inner.shared()) };
  const narrowShape = ({ groups }: Repeated): readonly Dim[] =>
    value.shape!.map((dim, i) => (i === 1 ? groups : dim));
  if (node.op === 'Transpose' && node.ints('perm')?.join() === '0,1,3,2') {
    const inner = readRepeated(make, node.inputs[0]!);
    const options = { attributes: { perm: [0, 1, 3, 2] }, dtype, shape: inner && narrowShape(inner) };
    return above(inner, (narrow) => make.op('Transpose', [narrow], { ...options, name: bare(node) }));
  }
  if (node.op === 'Mul' && isNumber(node.inputs[1])) {
    const inner = readRepeated(make, node.inputs[0]!);
    const options = { dtype, shape: inner && narrowShape(inner), name: bare(node) };
    return above(inner, (narrow) => make.op('Mul', [narrow, node.inputs[1]!], options));
  }
  const expand = node.op === 'Reshape' ? node.inputs[0]?.producer : undefined;
  const unsqueeze = expand?.op === 'Expand' ? expand.inputs[0]?.producer : undefined;
  const source = unsqueeze?.op === 'Unsqueeze' ? unsqueeze.inputs[0] : undefined;
  const [batch, groups, times, ...rest] = expand?.output.shape ?? [];
  if (source?.shape?.length !== 4 || typeof groups !== 'number' || typeof times !== 'number')
    return undefined;
  const isRepetition =
    same(source.shape, [batch, groups, ...rest]) &&
    same(unsqueeze!.output.shape, [batch, groups, 1, ...rest]) &&
    same(value.shape, [batch, groups * times, ...rest]);
  return isRepetition ? { groups, times, shared: () => source } : undefined;
}

/** A product of as many heads as there are repetitions, all lengths known by name. */
function isStackable({ inputs, output }: Node, { groups, times }: Repeated): boolean {
  const [a, b] = [inputs[0]!.shape, inputs[1]!.shape];
  return (
    output.dtype === 'float32' &&
    a?.length === 4 &&
    a[1] === groups * times &&
    same(a.slice(0, 2), b!.slice(0, 2)) &&
    same(output.shape, [...a.slice(0, 3), b!.at(-1)])
  );
}

/** The multiplication with, or division by, a number that alone reads a value. */
function scaledBy(value: Value): Node | undefined {
  const [user, ...others] = value.users;
  if (others.length > 0 || user?.domain !== '' || !['Mul', 'Div'].includes(user.op)) return undefined;
  return user.inputs[0] === value && isNumber(user.inputs[1]) ? user : undefined;
}

const isNumber = (value: Value | null | undefined) => value?.initializer?.size === 1;

function same(a: readonly Dim[] | null, b: readonly (Dim | undefined)[]): boolean {
  return a?.length === b.length && a.every((dim, axis) => dim !== null && dim === b[axis]);
}

const bare = (node: Node) => (node.name || node.op).replace(/^\//, '');
