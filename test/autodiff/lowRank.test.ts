import { describe, expect, it } from 'vitest';
import { differentiate } from '../../src/autodiff/differentiate.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { type Dim, Graph, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { randomStream } from '../../src/random.ts';
import { type Numbers, session } from './run.ts';

const [batch, tokens, width, out] = [2, 3, 4, 5];

/** Values of a matrix product (M, K) (K, N), row-major. */
function product(a: number[], b: number[], m: number, k: number, n: number): number[] {
  return Array.from({ length: m * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    return Array.from({ length: k }, (_, l) => a[i * k + l]! * b[l * n + j]!).reduce((sum, v) => sum + v, 0);
  });
}
function transpose(a: number[], m: number, n: number): number[] {
  return Array.from({ length: m * n }, (_, at) => a[(at % m) * n + Math.floor(at / m)]!);
}

/** x W by Gemm over all rows, as exports of GPT-2 have it. */
function rowsTimes(b: Builder, x: Value, W: Value, shape: readonly Dim[]): Value {
  const rows = b.op('Reshape', [x, b.ints([-1, width])], { shape: [null, width] });
  const product = b.op('Gemm', [rows, W], { shape: [null, out] });
  const lead = b.op('Slice', [b.op('Shape', [x], { dtype: 'int64' }), b.ints([0]), b.ints([2])]);
  return b.op('Reshape', [product, b.op('Concat', [lead, b.ints([out])], { attributes: { axis: 0 } })], {
    shape,
  });
}

/** y = x W + (x A^T g) B, as adapters are injected: A (R, in), g (R) or (B, 1, R), B (R, out), R symbolic. */
function adapted(gateShape: readonly Dim[], weightBy: 'MatMul' | 'Gemm', weight: number[], opset = 17) {
  const graph = new Graph();
  const b = new Builder(graph, 'forward');
  const x = graph.input('x', 'float32', ['batch', 'tokens', width]);
  const A = graph.input('A', 'float32', ['rank', width]);
  const g = graph.input('g', 'float32', gateShape);
  const B = graph.input('B', 'float32', ['rank', out]);
  const W = b.constant('W', Tensor.float32(weight, [width, out]));
  const shape = ['batch', 'tokens', out];
  const base = weightBy === 'MatMul' ? b.op('MatMul', [x, W], { shape }) : rowsTimes(b, x, W, shape);
  const At = b.op('Transpose', [A], { attributes: { perm: [1, 0] }, shape: [width, 'rank'] });
  const u = b.op('MatMul', [x, At], { shape: ['batch', 'tokens', 'rank'] });
  const v = b.op('Mul', [u, g], { shape: ['batch', 'tokens', 'rank'] });
  const y = b.op('Add', [base, b.op('MatMul', [v, B], { shape })], { shape });
  const dy = graph.input('dy', 'float32', ['batch', 'tokens', out]);
  const wrt = { x, A, g, B };
  const gradients = differentiate(graph, [[y, dy]], Object.values(wrt), { opset });
  for (const [name, value] of Object.entries(wrt)) {
    const gradient = gradients.get(value)!;
    gradient.name = `d_${name}`;
    graph.outputs.push(gradient);
  }
  return { graph, W };
}

describe.each(['MatMul', 'Gemm'] as const)('low-rank adapters on a %s', (weightBy) => {
  const random = randomStream(0, 'low rank');
  const normal = (count: number) => Array.from({ length: count }, () => Math.fround(random.normal()));
  const weight = normal(width * out);

  it('need no transposed copies in the backward pass', () => {
    const { graph, W } = adapted(['rank'], weightBy, weight);
    expect([...W.users].map((user) => user.op).sort()).toEqual(['Gemm', weightBy]);
    expect(graph.nodes.filter((node) => node.op === 'Transpose')).toHaveLength(1); // A, forward
  });

  // One session for all ranks, as training uses it: pruning and growing change the inputs only.
  it('have the gradients of the formulas at every rank, 0 included', async () => {
    for (const [perExample, opset] of [
      [false, 17],
      [true, 17],
      [false, 13],
    ] as const) {
      const gateShape = perExample ? ['batch', 1, 'rank'] : ['rank'];
      const { graph } = adapted(gateShape, weightBy, weight, opset);
      const runner = await session(graph, opset, 'float32');
      for (const rank of [2, 0, 1]) {
        const n = batch * tokens;
        const [x, dy, A, B] = [normal(n * width), normal(n * out), normal(rank * width), normal(rank * out)];
        const g = normal(perExample ? batch * rank : rank);
        const feeds: Record<string, Numbers> = {
          x: { dims: [batch, tokens, width], values: x },
          dy: { dims: [batch, tokens, out], values: dy },
          A: { dims: [rank, width], values: A },
          B: { dims: [rank, out], values: B },
          g: { dims: perExample ? [batch, 1, rank] : [rank], values: g },
        };
        // ALGORITHMS: dB = v^T dy, dv = dy B^T, dg = sum of dv u, du = dv g, dA = du^T x, dx = dy W^T + du A.
        const gate = (i: number) =>
          g[(perExample ? Math.floor(i / (tokens * rank)) * rank : 0) + (i % rank)]!;
        const u = product(x, transpose(A, rank, width), n, width, rank);
        const v = u.map((value, i) => value * gate(i));
        const dv = product(dy, transpose(B, rank, out), n, out, rank);
        const du = dv.map((value, i) => value * gate(i));
        const dg = g.map(() => 0);
        dv.forEach((value, i) => {
          const at = (perExample ? Math.floor(i / (tokens * rank)) * rank : 0) + (i % rank);
          dg[at]! += value * u[i]!;
        });
        const base = product(dy, transpose(weight, width, out), n, out, width);
        const low = product(du, A, n, rank, width);
        const expected = {
          d_x: base.map((value, i) => value + low[i]!),
          d_A: product(transpose(du, n, rank), x, rank, n, width),
          d_g: dg,
          d_B: product(transpose(v, n, rank), dy, rank, n, out),
        };
        const results = await runner.run(feeds);
        for (const [name, values] of Object.entries(expected)) {
          expect(results[name]!.dims, name).toEqual(feeds[name.slice(2)]!.dims);
          // float32 sums of at most 6 products of order 1
          values.forEach((value, i) => {
            expect(Math.abs(results[name]!.values[i]! - value), `${name}[${i}] at rank ${rank}`).toBeLessThan(
              2e-5,
            );
          });
        }
      }
      await runner.release();
    }
  });
});
