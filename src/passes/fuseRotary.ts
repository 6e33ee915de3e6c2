import { Builder } from '../onnx/builder.ts';
import type { Model, Node, Value } from '../onnx/graph.ts';
import { inferTypes } from './inferTypes.ts';
import { Lengths } from './lengths.ts';
import { roundsActivations } from './lower/dynamicQuantized.ts';
import { prune } from './prune.ts';
import { product } from './symbolic.ts';

/**
 * Replaces the elementary operators that exporters write for rotary position embeddings by ONNX Runtime's operator, in
 * place: x cos + turned(x) sin, x [batch, heads, length, size], turned(a, b) = (-b, a) for the halves of the last axis,
 * cos and sin [batch or 1, 1, length, size] with two equal halves. One pass over x, and one over its gradient, where
 * there were nine and eleven. Returns how many it replaced; none where
 * activations are rounded to 8 bits (see addLowRank).
 */
export function fuseRotary(model: Model): number {
  const { graph } = model;
  if (!graph.nodes.some(({ op }) => op === 'Neg') || roundsActivations(graph)) return 0;
  inferTypes(model);
  const found = graph.nodes.flatMap((node) => {
    const rotary = matchRotary(node);
    return rotary ? [{ node, ...rotary }] : [];
  });
  if (found.length === 0) return 0;
  const tables = new Tables(new Builder(graph, '/rotary'));
  for (const { node, x, cos, sin } of found) {
    const make = new Builder(graph, '');
    const y = make.op('RotaryEmbedding', [x, tables.positions(cos), tables.half(cos), tables.half(sin)], {
      name: `${(node.name || node.op).replace(/^\//, '')}/RotaryEmbedding`,
      domain: 'com.microsoft',
      dtype: node.output.dtype,
      shape: node.output.shape,
    });
    y.producer!.metadata = node.metadata;
    graph.takePlace(node.output, y);
  }
  model.opsets.set('com.microsoft', 1);
  prune(graph);
  graph.sort();
  return found.length;
}

interface Rotary {
  readonly x: Value;
  readonly cos: Value;
  readonly sin: Value;
}

/** The operator's tables, made once for each cos and sin. */
class Tables {
  private readonly halves = new Map<Value, Value>();
  private readonly places = new Map<string, Value>();
  private readonly lengths: Lengths;
  constructor(private readonly make: Builder) {
    this.lengths = new Lengths(make);
  }

  /** [batch or 1, 1, length, size] as [positions, size / 2], what one half has. */
  half(table: Value): Value {
    let half = this.halves.get(table);
    if (!half) {
      const { make } = this;
      const width = (table.shape!.at(-1) as number) / 2;
      const bounds = [make.ints([0]), make.ints([width]), make.ints([3])];
      const { dtype } = table;
      const rows = product(table.shape!.slice(0, -1));
      const first = make.op('Slice', [table, ...bounds], {
        dtype,
        shape: [...table.shape!.slice(0, -1), width],
      });
      half = make.op('Reshape', [first, make.ints([-1, width])], { dtype, shape: [rows, width] });
      this.halves.set(table, half);
    }
    return half;
  }

  /** Which row of the tables each position reads: int64 [batch, length], or [1] where they start at the first row. */
  positions(table: Value): Value {
    const { make } = this;
    const [batch, , length] = table.shape!;
    if (batch === 1) return make.ints([0]);
    const key = `${batch} ${length}`;
    let places = this.places.get(key);
    if (!places) {
      const int64 = (shape: Value['shape']) => ({ dtype: 'int64', shape }) as const;
      const [rows, columns] = [this.lengths.axis(table, 0), this.lengths.axis(table, 2)];
      const total = make.op('Squeeze', [make.op('Mul', [rows, columns], int64([1]))], int64([]));
      const all = make.op('Range', [make.int(0), total, make.int(1)], int64([product([batch!, length!])]));
      const target = make.op('Concat', [rows, columns], { ...int64([2]), attributes: { axis: 0 } });
      places = make.op('Reshape', [all, target], int64([batch!, length!]));
      this.places.set(key, places);
    }
    return places;
  }
}

function plain(value: Value | null | undefined, op: string): Node | undefined {
  const node = value?.producer;
  return node?.domain === '' && node.op === op ? node : undefined;
}

/** Inputs of a commutative operator in both orders. */
function* orders(node: Node | undefined): Generator<[Value, Value]> {
  const [a, b] = node?.inputs ?? [];
  if (!a || !b) return;
  yield [a, b];
  yield [b, a];
}

function matchRotary(node: Node): Rotary | undefined {
  const { dtype, shape } = node.output;
  const size = shape?.at(-1);
  if (node.op !== 'Add' || node.domain !== '' || dtype !== 'float32') return undefined;
  if (shape?.length !== 4 || typeof size !== 'number' || size % 2 !== 0) return undefined;
  for (const [left, right] of orders(node))
    for (const [turned, sin] of orders(plain(right, 'Mul'))) {
      const x = turnedOf(turned, size);
      if (!x || !sameDims(x, node.output)) continue;
      for (const [same, cos] of orders(plain(left, 'Mul')))
        if (same === x && isTable(cos, shape) && isTable(sin, shape) && sameDims(cos, sin))
          return { x, cos, sin };
    }
  return undefined;
}

function sameDims({ shape: a }: Value, { shape: b }: Value): boolean {
  return a?.length === b?.length && (a?.every((dim, axis) => dim !== null && dim === b![axis]) ?? false);
}

/** What a Concat of (-b, a) has the halves (a, b) of. */
function turnedOf(value: Value, size: number): Value | undefined {
  const concat = plain(value, 'Concat');
  const axis = concat?.int('axis', 0);
  if (concat?.inputs.length !== 2 || (axis !== -1 && axis !== 3)) return undefined;
  const second = halfOf(plain(concat.inputs[0], 'Neg')?.inputs[0], size);
  const first = halfOf(concat.inputs[1], size);
  return first?.at === 0 && second?.at === 1 && first.of === second.of ? first.of : undefined;
}

/** The value whose first or second half along the last axis this is. */
function halfOf(value: Value | null | undefined, size: number): { of: Value; at: 0 | 1 } | undefined {
  const split = plain(value, 'Split');
  if (split && value?.shape?.at(-1) === size / 2 && split.outputs.length === 2) {
    const axis = split.int('axis', 0);
    return axis === -1 || axis === 3
      ? { of: split.inputs[0]!, at: split.outputs[0] === value ? 0 : 1 }
      : undefined;
  }
  const [of, start, end, axis, step] = plain(value, 'Slice')?.inputs ?? [];
  const number = (constant: Value | null | undefined) =>
    constant?.initializer?.size === 1 ? constant.initializer.toNumbers()[0] : undefined;
  const along = number(axis);
  if (!of || (along !== -1 && along !== 3) || (step && number(step) !== 1)) return undefined;
  const [from, to] = [number(start), number(end)];
  if (from === 0 && to === size / 2) return { of, at: 0 };
  return from === size / 2 && to !== undefined && to >= size ? { of, at: 1 } : undefined;
}

/** [batch or 1, 1, length, size] with two equal halves. */
function isTable(value: Value, [batch, , length, size]: readonly unknown[]): boolean {
  const { shape } = value;
  return (
    value.dtype === 'float32' &&
    shape?.length === 4 &&
    (shape[0] === 1 || (shape[0] === batch && batch !== null)) &&
    shape[1] === 1 &&
    shape[2] === length &&
    length !== null &&
    shape[3] === size &&
    hasEqualHalves(value, size as number)
  );
}

const elementwise = new Set(['Cos', 'Sin', 'Cast', 'Identity', 'Neg', 'Mul', 'Add', 'Sub', 'Div']);
const views = new Set(['Unsqueeze', 'Squeeze', 'Reshape', 'Expand']);

/** Whether the two halves of the last axis are surely the same: made from two copies, or from a constant that is so. */
function hasEqualHalves(value: Value, size: number): boolean {
  const last = value.shape?.at(-1);
  if (value.shape?.length === 0 || last === 1) return true;
  if (last !== size) return false;
  if (value.initializer) {
    const numbers = value.initializer.toNumbers();
    return numbers.every((number, i) => i % size >= size / 2 || number === numbers[i + size / 2]);
  }
  const node = value.producer;
  if (node?.domain !== '') return false;
  if (node.op === 'Concat') {
    const axis = node.int('axis', 0);
    const isLast = axis === -1 || axis === value.shape!.length - 1;
    return isLast && node.inputs.length === 2 && node.inputs[0] === node.inputs[1];
  }
  if (elementwise.has(node.op)) return node.inputs.every((input) => input && hasEqualHalves(input, size));
  const isLookup =
    node.op === 'Gather' && node.int('axis', 0) === 0 && (node.inputs[0]!.shape?.length ?? 0) > 1;
  return (
    (views.has(node.op) || isLookup) &&
    hasEqualHalves(node.inputs[0]!, size) &&
    node.inputs[0]!.shape?.at(-1) === size
  );
}
