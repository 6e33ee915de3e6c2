import { Builder } from '../onnx/builder.ts';
import type { Model, Node, Value } from '../onnx/graph.ts';
import { prune } from './prune.ts';
import { canRaiseOpset, raiseOpset } from './raiseOpset.ts';

/** The operator set that knows Gelu. */
const geluOpset = 20;

/**
 * Replaces the elementary operators that exporters write for Gelu by the operator itself, in place: x (1 + erf(x /
 * sqrt 2)) / 2, or with tanh(sqrt(2/pi) (x + 0.044715 x^3)) in the place of erf, in any order of factors. Training then
 * keeps x alone where it kept six tensors of the same size. Raises the operator set to 20 where it finds one; a graph
 * whose other operators would change their meaning stays as it is.
 * Returns how many it replaced.
 */
export function fuseGelu(model: Model): number {
  const { graph } = model;
  if ((model.opsets.get('') ?? 0) < 13 || !canRaiseOpset(model, geluOpset)) return 0;
  const found = graph.nodes.flatMap((node) => {
    const gelu = matchGelu(node);
    return gelu ? [{ node, ...gelu }] : [];
  });
  if (found.length === 0) return 0;
  raiseOpset(model, geluOpset);
  for (const { node, x, approximate } of found) {
    const make = new Builder(graph, '');
    const y = make.op('Gelu', [x], {
      name: `${(node.name || node.output.name).replace(/^\//, '')}/Gelu`,
      attributes: { approximate },
      dtype: node.output.dtype,
      shape: node.output.shape,
    });
    y.producer!.metadata = node.metadata;
    graph.takePlace(node.output, y);
  }
  prune(graph);
  return found.length;
}

interface Gelu {
  readonly x: Value;
  readonly approximate: 'none' | 'tanh';
}

/** y = s x (b + a f(u)) with s a = s b = 1/2, f: erf or tanh. */
function matchGelu(node: Node): Gelu | undefined {
  if (node.op !== 'Mul' || node.domain !== '') return undefined;
  const { scale, values } = factors(node.output);
  if (values.length !== 2) return undefined;
  for (const [sum, x] of [values, [values[1]!, values[0]!]] as [Value, Value][]) {
    const add = plain(sum, 'Add');
    if (!add) continue;
    const [left, right] = add.inputs;
    const [term, constant] = scalar(left) === undefined ? [left, scalar(right)] : [right, scalar(left)];
    if (!term || constant === undefined) continue;
    const inner = factors(term);
    const curve = inner.values.length === 1 ? inner.values[0]!.producer : undefined;
    if (curve?.domain !== '' || !close(scale * inner.scale, 0.5) || !close(scale * constant, 0.5)) continue;
    const argument = polynomial(curve.inputs[0], x);
    if (!argument) continue;
    if (curve.op === 'Erf' && matches(argument, [0, Math.SQRT1_2])) return { x, approximate: 'none' };
    const c = Math.sqrt(2 / Math.PI);
    if (curve.op === 'Tanh' && matches(argument, [0, c, 0, 0.044715 * c])) return { x, approximate: 'tanh' };
  }
  return undefined;
}

/** Exporters round the constants to float32 or print five digits of them. */
const close = (a: number, b: number) => Math.abs(a - b) <= 2e-6 * Math.max(1, Math.abs(b));
const matches = (a: readonly number[], b: readonly number[]) =>
  Array.from({ length: Math.max(a.length, b.length) }, (_, i) => close(a[i] ?? 0, b[i] ?? 0)).every(Boolean);

/** The number of a constant with one element. */
function scalar(value: Value | null | undefined): number | undefined {
  return value?.initializer?.size === 1 ? value.initializer.toNumbers()[0] : undefined;
}

function plain(value: Value | null | undefined, ...ops: string[]): Node | undefined {
  const node = value?.producer;
  return node && node.domain === '' && ops.includes(node.op) ? node : undefined;
}

/** A product as a number times values that are no products. */
function factors(value: Value): { scale: number; values: Value[] } {
  const node = plain(value, 'Mul', 'Div');
  if (!node) return { scale: 1, values: [value] };
  const [a, b] = [node.inputs[0]!, node.inputs[1]!];
  const [left, right] = [scalar(a), scalar(b)];
  if (right !== undefined) {
    const rest = factors(a);
    return { ...rest, scale: node.op === 'Div' ? rest.scale / right : rest.scale * right };
  }
  if (node.op === 'Div') return { scale: 1, values: [value] };
  if (left !== undefined) {
    const rest = factors(b);
    return { ...rest, scale: rest.scale * left };
  }
  const [p, q] = [factors(a), factors(b)];
  return { scale: p.scale * q.scale, values: [...p.values, ...q.values] };
}

/** A value as a polynomial in x of degree 3 at most, lowest coefficient first; undefined where it is none. */
function polynomial(value: Value | null | undefined, x: Value): readonly number[] | undefined {
  if (!value) return undefined;
  if (value === x) return [0, 1];
  const constant = scalar(value);
  if (constant !== undefined) return [constant];
  const node = plain(value, 'Add', 'Mul', 'Div', 'Pow');
  if (!node) return undefined;
  const [p, q] = node.inputs.map((input) => polynomial(input, x));
  if (!p || !q) return undefined;
  if (node.op === 'Add')
    return Array.from({ length: Math.max(p.length, q.length) }, (_, i) => (p[i] ?? 0) + (q[i] ?? 0));
  if (node.op === 'Mul') return times(p, q);
  if (q.length !== 1) return undefined;
  if (node.op === 'Div') return p.map((coefficient) => coefficient / q[0]!);
  if (q[0] === 2) return times(p, p);
  return q[0] === 3 ? times(times(p, p) ?? [], p) : undefined;
}

function times(p: readonly number[], q: readonly number[]): readonly number[] | undefined {
  if (p.length + q.length - 1 > 4) return undefined;
  const product = new Array<number>(p.length + q.length - 1).fill(0);
  for (const [i, a] of p.entries()) for (const [j, b] of q.entries()) product[i + j]! += a * b;
  return product;
}
