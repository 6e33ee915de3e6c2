import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { differentiate } from '../../src/autodiff/differentiate.ts';
import { gradients } from '../../src/autodiff/gradients/index.ts';
import { AloraError } from '../../src/errors.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { codeOf, type DType } from '../../src/onnx/dtype.ts';
import { type AttributeInit, type Dim, Graph, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { randomStream } from '../../src/random.ts';
import { dot, type Float, type Numbers, session } from './run.ts';

/** One node with PyTorch's gradients; see fixtures/gradients/make.py. */
interface Case {
  name: string;
  op: string;
  opset: number;
  attributes: Record<string, number | string | number[]>;
  /** The inputs sit on a kink, where finite differences mean nothing. */
  kinks?: true;
  /** Why ONNX Runtime cannot run the operator in float64. */
  float32?: string;
  inputs: (null | {
    dims: number[];
    values: number[];
    dtype?: 'int64' | 'int32' | 'bool' | 'float';
    constant?: boolean;
    gradient?: number[];
  })[];
  outputs: { dims: number[]; gradient?: number[] }[];
  unread?: number;
  /** Runs with this much known of shapes only. */
  only?: Knowledge;
}

const cases: Case[] = JSON.parse(
  readFileSync(new URL('../../fixtures/gradients/cases.json', import.meta.url), 'utf8'),
);

/** What the graph says of shapes: lengths, one name per length, nothing but the rank, or nothing at all. */
const knowledge = {
  lengths: (dims) => dims,
  names: (dims) => dims.map((dim) => (dim === 1 ? 1 : `n${dim}`)),
  rank: (dims) => dims.map(() => null),
  nothing: () => null,
} satisfies Record<string, (dims: number[]) => readonly Dim[] | null>;
type Knowledge = keyof typeof knowledge;

/** Operators (in at least one form) whose rule needs the rank of an operand. */
const needRank = new Set([
  'Einsum',
  'Gather',
  'LayerNormalization',
  'MatMul',
  'Pad',
  'RMSNormalization',
  'Slice',
  'Tile',
]);

const floatAttributes = new Set(['alpha', 'beta', 'epsilon']);

function build(row: Case, known: Knowledge, float: Float) {
  const graph = new Graph();
  const b = new Builder(graph, 'forward');
  const feeds: Record<string, Numbers> = {};
  const wrt: { value: Value; name: string; expected: number[]; dims: number[] }[] = [];
  const shapeOf = knowledge[known];
  const inputs = row.inputs.map((input, i) => {
    if (!input) return null;
    const dtype: DType = input.dtype === undefined || input.dtype === 'float' ? float : input.dtype;
    if (input.constant) return b.constant(`c${i}`, Tensor.of(dtype, input.values, input.dims));
    const name = `x${i}`;
    const value = graph.input(name, dtype, []);
    value.shape = shapeOf(input.dims);
    // Shape vectors have a known length even where nothing else is known, as in exported files.
    if (input.dtype?.startsWith('int') && input.dims.length === 1 && row.op !== 'Gather')
      value.shape = input.dims;
    feeds[name] = { dims: input.dims, values: input.values, ...(dtype === float ? {} : { dtype }) };
    if (input.gradient) wrt.push({ value, name, expected: input.gradient, dims: input.dims });
    return value;
  });
  const attributes: Record<string, AttributeInit> = {};
  for (const [name, value] of Object.entries(row.attributes))
    attributes[name] =
      value === 'self'
        ? codeOf(float)
        : floatAttributes.has(name)
          ? { type: 'float', value: value as number }
          : value;
  const node = b.node(row.op, inputs, row.outputs.length + (row.unread ?? 0), { attributes });
  const seeds: [Value, Value][] = [];
  row.outputs.forEach((output, i) => {
    const y = node.outputs[i]!;
    y.name = `y${i}`;
    if (known === 'lengths' || known === 'names') y.shape = shapeOf(output.dims);
    graph.outputs.push(y);
    if (!output.gradient) return;
    const dy = graph.input(`dy${i}`, float, []);
    dy.shape = shapeOf(output.dims);
    feeds[dy.name] = { dims: output.dims, values: output.gradient };
    seeds.push([y, dy]);
  });
  const gradientOf = differentiate(
    graph,
    seeds,
    wrt.map(({ value }) => value),
    { opset: row.opset },
  );
  for (const { value, name } of wrt) {
    // A zero that the rule can tell (x^0) has no tensor.
    const gradient = gradientOf.get(value);
    if (!gradient) continue;
    gradient.name = `d_${name}`;
    graph.outputs.push(gradient);
  }
  return { graph, feeds, wrt };
}

/** sum over outputs of <dy, y>: the loss whose gradient the rule writes. */
function loss(row: Case, results: Record<string, { values: number[] }>): number {
  return row.outputs.reduce(
    (sum, { gradient }, i) => (gradient ? sum + dot(gradient, results[`y${i}`]!.values) : sum),
    0,
  );
}

function expectClose(
  actual: readonly number[],
  expected: readonly number[],
  tolerance: number,
  what: string,
) {
  expect(actual.length, `${what}: number of elements`).toBe(expected.length);
  const scale = Math.max(1, ...expected.map(Math.abs));
  actual.forEach((value, i) => {
    if (!(Math.abs(value - expected[i]!) <= tolerance * scale))
      expect.fail(`${what}[${i}]: ${value}, expected ${expected[i]} within ${tolerance} x ${scale}`);
  });
}

// In float64 the statistics of a LayerNormalization are recomputed, in float32 the node's own outputs are read.
const normalizations = cases
  .filter(({ op }) => op === 'LayerNormalization')
  .map((row) => ({ ...row, name: `${row.name}, float32`, float32: 'another path than in float64' }));

/** The same nodes under another operator set, where the operator has the same form in it. */
function under(opset: number, excluded: (row: Case) => boolean): Case[] {
  return cases
    .filter((row) => row.opset === 17 && !excluded(row))
    .map((row) => ({ ...row, name: `${row.name}, opset ${opset}`, opset, only: 'names' as const }));
}
const newSince13 = new Set([
  'CastLike',
  'CumSum',
  'LayerNormalization',
  'Trilu',
  'GatherElements',
  'GatherND',
]);
const oldest = under(13, ({ op, attributes, name }) => {
  // A Reshape to a length of 0 came with 14.
  const reshapesToNothing = 'allowzero' in attributes || name === 'flatten, no columns';
  return newSince13.has(op) || 'reduction' in attributes || reshapesToNothing;
});
// Since 18, axes of reductions are an input and equal parts of a Split are counted.
const newest = under(23, ({ op, attributes, inputs }) => {
  return 'axes' in attributes || (op === 'Split' && inputs.length === 1);
});
const rows = [...cases, ...normalizations, ...oldest, ...newest].map((row) => [row.name, row] as const);

describe('gradients of operators', () => {
  it.each(rows)('%s', async (_, row) => {
    const float: Float = row.float32 ? 'float32' : 'float64';
    // float64 kernels agree to rounding; polynomial approximations of float32 kernels err by up to 3e-7 of the
    // largest gradient, a few of them add up.
    const tolerance = row.float32 ? 3e-6 : 1e-12;
    for (const known of row.only ? [row.only] : (Object.keys(knowledge) as Knowledge[])) {
      let built: ReturnType<typeof build>;
      try {
        built = build(row, known, float);
      } catch (error) {
        const refused = known === 'nothing' && needRank.has(row.op) && error instanceof AloraError;
        if (!refused) throw new Error(`with ${known} known`, { cause: error });
        expect(error.code).toBe('MODEL_NO_GRADIENT');
        expect(error.message).toMatch(/rank|axes are not constant/);
        continue;
      }
      const { graph, feeds, wrt } = built;
      const runner = await session(graph, row.opset, float);
      const results = await runner.run(feeds);
      for (const { name, dims, expected } of wrt)
        if (!graph.findOutput(`d_${name}`)) results[`d_${name}`] = { dims, values: expected.map(() => 0) };
      for (const { name, expected, dims } of wrt) {
        expect(results[`d_${name}`]!.dims, `shape of d_${name}, ${known} known`).toEqual(dims);
        expectClose(results[`d_${name}`]!.values, expected, tolerance, `d_${name}, ${known} known`);
      }
      if (known === 'lengths' && !row.kinks) {
        // Central differences along one random direction: error O(step^2) + O(rounding / step).
        const step = row.float32 ? 2e-2 : 1e-5;
        const random = randomStream(1, row.name);
        const direction = Object.fromEntries(
          wrt.map(({ name }) => [name, feeds[name]!.values.map(() => random.normal())]),
        );
        const at = async (t: number) => {
          const moved = Object.fromEntries(
            wrt.map(({ name }) => [
              name,
              { ...feeds[name]!, values: feeds[name]!.values.map((v, i) => v + t * direction[name]![i]!) },
            ]),
          );
          return loss(row, await runner.run({ ...feeds, ...moved }));
        };
        const difference = ((await at(step)) - (await at(-step))) / (2 * step);
        const slope = wrt.reduce(
          (sum, { name }) => sum + dot(results[`d_${name}`]!.values, direction[name]!),
          0,
        );
        // step^2 = 1e-10 times third derivatives of order 100; in float32, 4e-4 times those of order 10 is the best.
        const error = Math.abs(difference - slope) / Math.max(1, Math.abs(slope));
        expect(error, `slope ${slope}, by finite differences ${difference}`).toBeLessThan(
          row.float32 ? 5e-3 : 1e-7,
        );
      }
      await runner.release();
    }
  });

  it('covers every operator that has a gradient', () => {
    const tested = new Set(cases.map((row) => row.op));
    // It has no kernel in float64 and is tested with fuseRotary.
    const others = ['com.microsoft.RotaryEmbedding'];
    expect(Object.keys(gradients).filter((op) => !tested.has(op))).toEqual(others);
  });
});
