import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { cloneModel } from '../../src/onnx/clone.ts';
import { type Dim, Graph, type Model, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { addLowRank } from '../../src/passes/addLowRank.ts';
import fc from '../fastCheck.ts';
import { type Feeds, modelOf, run, scaledError } from './models.ts';

const [inner, width] = [5, 6];
const numbers = (size: number, seed: number) =>
  Float32Array.from({ length: size }, (_, i) => Math.sin(1.3 * i + seed));

interface Case {
  readonly ranks: readonly number[];
  readonly axes: 2 | 3;
  readonly rows: number;
  readonly bias: 'none' | 'gemm' | 'added';
  readonly residual: boolean;
  /** Whether another node reads the product to which the low-rank products are added. */
  readonly shared: boolean;
}

/** y = x W (+ b) (+ residual) + sum of u_i B_i; with `shared`, z = tanh(x W). */
function sumOf({ ranks, axes, rows, bias, residual, shared }: Case): { model: Model; feeds: Feeds } {
  const graph = new Graph('sum');
  const make = new Builder(graph, '/layer');
  const feeds: Feeds = {};
  const lead: Dim[] = axes === 2 ? ['rows'] : ['batch', 'length'];
  const sizes = axes === 2 ? [rows] : [2, rows];
  const input = (name: string, shape: readonly Dim[], dims: readonly number[], seed: number) => {
    feeds[name] = new ort.Tensor(
      'float32',
      numbers(
        dims.reduce((a, b) => a * b, 1),
        seed,
      ),
      [...dims],
    );
    return graph.input(name, 'float32', shape);
  };
  const typed = (shape: readonly Dim[]) => ({ dtype: 'float32', shape }) as const;
  const full = typed([...lead, width]);
  const x = input('x', [...lead, inner], [...sizes, inner], 1);
  const weight = make.constant('weight', Tensor.float32(numbers(inner * width, 2), [inner, width]));
  const vector = make.constant('bias', Tensor.float32(numbers(width, 3), [width]));
  const isGemm = bias === 'gemm' && axes === 2;
  const product = make.op(isGemm ? 'Gemm' : 'MatMul', isGemm ? [x, weight, vector] : [x, weight], full);
  let y: Value = product;
  if (bias === 'added') y = make.op('Add', [vector, y], full);
  ranks.forEach((rank, i) => {
    const u = input(`u${i}`, [...lead, `r${i}`], [...sizes, rank], 4 + i);
    const b = input(`b${i}`, [`r${i}`, width], [rank, width], 8 + i);
    const delta = make.op('MatMul', [u, b], full);
    y = make.op('Add', i % 2 === 0 ? [y, delta] : [delta, y], full);
  });
  if (residual) y = make.op('Add', [input('h', [...lead, width], [...sizes, width], 12), y], full);
  graph.outputs = shared ? [y, make.op('Tanh', [product], full)] : [y];
  return { model: modelOf(graph), feeds };
}

describe('addLowRank', () => {
  it('gives the same sums for all ranks, 0 included, biases and readers', async () => {
    const cases = fc.record({
      ranks: fc.array(fc.nat(4), { minLength: 1, maxLength: 3 }),
      axes: fc.constantFrom<2 | 3>(2, 3),
      rows: fc.nat(4),
      bias: fc.constantFrom<Case['bias']>('none', 'gemm', 'added'),
      residual: fc.boolean(),
      shared: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(cases, async (one) => {
        const { model, feeds } = sumOf(one);
        const before = await run(cloneModel(model), feeds);
        expect(addLowRank(model)).toBe(1);
        const ops = model.graph.nodes.map(({ op }) => op);
        expect(ops.filter((op) => op === 'FusedConv')).toHaveLength(1);
        const after = await run(model, feeds);
        for (const [name, value] of Object.entries(before)) {
          expect(after[name]!.dims).toEqual(value.dims);
          // Sums of at most twenty products of numbers below 1, in another order.
          if (value.size > 0) expect(scaledError(after[name]!, value)).toBeLessThan(3e-6);
        }
      }),
      { numRuns: 40 },
    );
  });

  it('takes the bias of a Gemm and one product for all ranks', () => {
    const { model } = sumOf({
      ranks: [2, 3],
      axes: 2,
      rows: 3,
      bias: 'gemm',
      residual: false,
      shared: false,
    });
    addLowRank(model);
    const count = (op: string) => model.graph.nodes.filter((node) => node.op === op).length;
    expect([count('FusedConv'), count('MatMul'), count('Add')]).toEqual([1, 0, 0]);
    expect(model.graph.nodes.find(({ op }) => op === 'Gemm')!.inputs).toHaveLength(2);
  });

  it('leaves sums without a product of symbolic rank', () => {
    const { model } = sumOf({ ranks: [], axes: 3, rows: 3, bias: 'added', residual: true, shared: false });
    expect(addLowRank(model)).toBe(0);
  });
});
