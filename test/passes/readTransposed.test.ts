import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { cloneModel } from '../../src/onnx/clone.ts';
import { Graph, type Model } from '../../src/onnx/graph.ts';
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
    expect(
      Math.max(
        ...[...(after.y!.data as Float32Array)].map((value, i) =>
          Math.abs(value - (before.y!.data as Float32Array)[i]!),
        ),
      ),
    ).toBeLessThan(1e-6);
  });

  it('keeps to plain operators where it must', () => {
    const model = product(3);
    expect(readTransposed(model, { fused: false })).toBe(0);
    expect(ops(model)).toEqual(['Transpose', 'MatMul']);
    expect(readTransposed(product(2), { fused: false })).toBe(1);
  });
});
