import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { cloneModel } from '../../src/onnx/clone.ts';
import { Graph, type Model, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { readTransposed } from '../../src/passes/readTransposed.ts';
import { modelOf, run } from './models.ts';

/** y = x W^T with x: [rows, 3] or [2, rows, 3] and W: [4, 3]. */
function product(rank: 2 | 3): Model {
  const graph = new Graph('product');
  const x = graph.input('x', 'float32', rank === 2 ? ['rows', 3] : [2, 'rows', 3]);
  const make = new Builder(graph, '/head');
  const weight = make.constant(
    'weight',
    Tensor.float32(
      Array.from({ length: 12 }, (_, i) => Math.sin(i)),
      [4, 3],
    ),
  );
  const transposed = make.op('Transpose', [weight], { attributes: { perm: [1, 0] } });
  const shape = rank === 2 ? ['rows', 4] : [2, 'rows', 4];
  const y = make.op('MatMul', [x, transposed], { dtype: 'float32', shape });
  y.name = 'y';
  graph.outputs = [y];
  return modelOf(graph);
}

function difference(after: Record<string, ort.Tensor>, before: Record<string, ort.Tensor>): number {
  const [a, b] = [after.y!.data as Float32Array, before.y!.data as Float32Array];
  return a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - b[i]!)), 0);
}

const ops = (model: Model) => model.graph.nodes.map((node) => node.op);

describe('readTransposed', () => {
  it.each([
    [2, 'Gemm'],
    [3, 'FusedMatMul'],
  ] as const)('a product of %d-D rows with a transposed constant becomes %s', async (rank, op) => {
    const model = product(rank);
    const rows = rank === 2 ? [5, 3] : [2, 5, 3];
    const size = rows.reduce((a, b) => a * b, 1);
    const feeds = {
      x: new ort.Tensor(
        'float32',
        Float32Array.from({ length: size }, (_, i) => Math.cos(i)),
        rows,
      ),
    };
    const before = await run(cloneModel(model), feeds);
    expect(readTransposed(model, { fused: true })).toBe(1);
    expect(ops(model)).toEqual([op]);
    const after = await run(model, feeds);
    expect(after.y!.dims).toEqual(before.y!.dims);
    // Sums of three products of numbers below 1.
    expect(difference(after, before)).toBeLessThan(1e-6);
  });

  it.each(['left', 'right', 'both'])(
    'a batched product reads its %s transposed operand as it lies',
    async (side) => {
      const graph = new Graph('attention');
      const [m, k, n] = [3, 5, 4];
      const [turnA, turnB] = [side !== 'right', side !== 'left'];
      const a = graph.input('a', 'float32', turnA ? [2, 'h', k, m] : [2, 'h', m, k]);
      const b = graph.input('b', 'float32', turnB ? [2, 'h', n, k] : [2, 'h', k, n]);
      const make = new Builder(graph, '/attention');
      const turn = (x: Value, wanted: boolean) =>
        wanted ? make.op('Transpose', [x], { attributes: { perm: [0, 1, 3, 2] } }) : x;
      const y = make.op('MatMul', [turn(a, turnA), turn(b, turnB)], {
        dtype: 'float32',
        shape: [2, 'h', m, n],
      });
      y.name = 'y';
      graph.outputs = [y];
      const model = modelOf(graph);
      const numbers = (size: number) => Float32Array.from({ length: size }, (_, i) => Math.cos(i));
      const feeds = {
        a: new ort.Tensor('float32', numbers(2 * 3 * m * k), turnA ? [2, 3, k, m] : [2, 3, m, k]),
        b: new ort.Tensor('float32', numbers(2 * 3 * k * n), turnB ? [2, 3, n, k] : [2, 3, k, n]),
      };
      const before = await run(cloneModel(model), feeds);
      expect(readTransposed(model, { fused: true })).toBe(1);
      expect(ops(model)).toEqual(['FusedMatMul']);
      // Sums of five products of numbers below 1.
      expect(difference(await run(model, feeds), before)).toBeLessThan(1e-6);
    },
  );

  const left = [[3], [2, 3], [4, 2, 3], [1, 2, 3], [2, 4, 2, 3]];
  const right = [[3], [3, 5], [4, 3, 5], [1, 3, 5], [2, 4, 3, 5]];
  it.each(left.flatMap((a) => right.map((b) => [a, b] as const)))(
    'changes nothing of %j times %j, whichever is transposed',
    async (a, b) => {
      const swap = (dims: readonly number[]) => [...dims.slice(0, -2), dims.at(-1)!, dims.at(-2)!];
      for (const [turnA, turnB] of [
        [true, false],
        [false, true],
        [true, true],
      ] as const) {
        const graph = new Graph('product');
        const make = new Builder(graph, '/m');
        const feeds: Record<string, ort.Tensor> = {};
        const operand = (name: string, dims: readonly number[], turned: boolean) => {
          const stored = turned && dims.length > 1 ? swap(dims) : dims;
          const numbers = Float32Array.from({ length: dims.reduce((x, y) => x * y, 1) }, (_, i) =>
            Math.sin(i + dims.length),
          );
          feeds[name] = new ort.Tensor('float32', numbers, stored);
          const value = graph.input(name, 'float32', stored);
          if (stored === dims) return value;
          const perm = swap([...dims.keys()]);
          return make.op('Transpose', [value], { attributes: { perm }, dtype: 'float32', shape: dims });
        };
        const y = make.op('MatMul', [operand('a', a, turnA), operand('b', b, turnB)]);
        Object.assign(y, { name: 'y', dtype: 'float32' });
        graph.outputs = [y];
        const model = modelOf(graph);
        // ONNX Runtime has a pass of this kind itself.
        const before = await run(cloneModel(model), feeds, 'disabled').catch(() => undefined);
        // Batches that do not broadcast.
        if (!before) continue;
        readTransposed(model, { fused: true });
        const after = await run(model, feeds, 'disabled');
        expect(after.y!.dims).toEqual(before.y!.dims);
        expect(difference(after, before)).toBeLessThan(1e-6);
      }
    },
  );

  it('keeps to plain operators where it must', () => {
    const model = product(3);
    expect(readTransposed(model, { fused: false })).toBe(0);
    expect(ops(model)).toEqual(['Transpose', 'MatMul']);
    expect(readTransposed(product(2), { fused: false })).toBe(1);
  });
});
