import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { type Dim, Graph, type Model, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { type Int8Options, int8Products } from '../../src/passes/int8Products.ts';
import { quantiseWeight } from '../../src/passes/int8Weight.ts';
import { randomStream } from '../../src/random.ts';
import { modelOf, run } from './models.ts';

const [inner, outer, rows] = [192, 96, 6];
const random = randomStream(3, 'int8');
const normals = (count: number) => Float32Array.from({ length: count }, () => random.normal());
/** W [192, 96], its columns a thousandfold apart in size, the last of zeros. */
const weights = normals(inner * outer).map((value, i) => value * (i % outer ? 10 ** ((i % 4) - 2) : 0));
/** x [6, 192], its rows a millionfold apart in size, the last of zeros. */
const input = normals(rows * inner).map((value, i) => {
  const row = Math.floor(i / inner);
  return row === rows - 1 ? 0 : value * 10 ** (row - 4);
});

function transposed(values: Float32Array): Float32Array {
  return Float32Array.from(
    { length: inner * outer },
    (_, i) => values[(i % inner) * outer + Math.floor(i / inner)]!,
  );
}

interface Product {
  readonly op: 'MatMul' | 'Gemm' | 'FusedMatMul';
  readonly transB?: boolean;
  readonly bias?: boolean;
  readonly dims?: readonly Dim[];
  readonly opset?: number;
}

function modelWith({ op, transB = false, bias = false, dims = [rows, inner], opset = 17 }: Product): Model {
  const graph = new Graph('product');
  const x = graph.input('x', 'float32', dims);
  const make = new Builder(graph, '/layer');
  const weight = make.constant(
    'weight',
    transB ? Tensor.float32(transposed(weights), [outer, inner]) : Tensor.float32(weights, [inner, outer]),
  );
  const inputs: Value[] = [x, weight];
  if (bias) inputs.push(make.constant('bias', Tensor.float32(new Float32Array(outer).fill(0.5))));
  const y = make.op(op, inputs, {
    domain: op === 'FusedMatMul' ? 'com.microsoft' : '',
    attributes: { transB: transB ? 1 : undefined },
    dtype: 'float32',
    shape: [...dims.slice(0, -1), outer],
  });
  y.name = 'y';
  graph.outputs = [y];
  return modelOf(graph, opset);
}

/** m/127 * sum of (round(127 x/m) * round(127 w/n)) * n/127, m of the row and n of the column. */
function expected(): Float64Array {
  const [rowSizes, columnSizes] = [new Float64Array(rows), new Float64Array(outer)];
  input.forEach((value, i) => {
    const row = Math.floor(i / inner);
    rowSizes[row] = Math.max(rowSizes[row]!, Math.abs(value));
  });
  weights.forEach((value, i) => {
    columnSizes[i % outer] = Math.max(columnSizes[i % outer]!, Math.abs(value));
  });
  return Float64Array.from({ length: rows * outer }, (_, i) => {
    const [row, column] = [Math.floor(i / outer), i % outer];
    const [m, n] = [rowSizes[row]!, columnSizes[column]!];
    if (m === 0 || n === 0) return 0;
    let sum = 0;
    for (let k = 0; k < inner; k++)
      sum +=
        Math.round((127 * input[row * inner + k]!) / m) *
        Math.round((127 * weights[k * outer + column]!) / n);
    return (sum * m * n) / 127 ** 2;
  });
}

const plain: Int8Options = { quantise: quantiseWeight, forwardOnly: new Map() };

describe('int8Products', () => {
  it.each<[string, Product]>([
    ['MatMul', { op: 'MatMul' }],
    ['MatMul of batches', { op: 'MatMul', dims: [2, 3, inner] }],
    ['MatMul in opset 18', { op: 'MatMul', opset: 18 }],
    ['Gemm with a bias', { op: 'Gemm', bias: true }],
    ['Gemm by a transposed weight', { op: 'Gemm', transB: true }],
    ['FusedMatMul by a transposed weight', { op: 'FusedMatMul', transB: true, dims: [3, 2, inner] }],
  ])('%s: a scale for each row and column, and exact sums between', async (_, product) => {
    const model = modelWith(product);
    expect(int8Products(model, plain)).toBe(1);
    expect(
      [...model.graph.initializers].some(
        ({ initializer }) => initializer!.size > outer && initializer!.dtype === 'float32',
      ),
    ).toBe(false);
    const { y } = await run(model, {
      x: new ort.Tensor('float32', input, (product.dims as number[] | undefined) ?? [rows, inner]),
    });
    const wanted = expected();
    const got = y!.data as Float32Array;
    const sizes = Array.from({ length: rows }, (_, row) =>
      Math.max(1e-30, ...wanted.subarray(row * outer, (row + 1) * outer).map(Math.abs)),
    );
    // float32 rounding, and ties of the activations, which round to even: at most one step of one of 192 numbers.
    got.forEach((value, i) => {
      const off = Math.abs(value - (product.bias ? 0.5 : 0) - wanted[i]!);
      expect(off / sizes[Math.floor(i / outer)]!).toBeLessThan(product.bias ? 1 : 1e-3);
    });
  });

  it('rounds weights to fewer steps where products of pairs must fit 16 bits', () => {
    const { values, scales } = quantiseWeight(Tensor.float32(weights, [inner, outer]), false, 64);
    const largest = Math.max(...values.toNumbers().map(Math.abs));
    expect(largest).toBe(64);
    expect(2 * 255 * largest).toBeLessThan(2 ** 15);
    const steps = scales.toNumbers();
    values.toNumbers().forEach((value, i) => {
      // float32 rounding of scale and factor beside half a step.
      const off = Math.abs(value * steps[i % outer]! - weights[i]!);
      expect(off).toBeLessThanOrEqual(0.5001 * steps[i % outer]!);
    });
  });

  it('takes an input without rows', async () => {
    const model = modelWith({ op: 'MatMul', dims: ['rows', inner] });
    int8Products(model, plain);
    const { y } = await run(model, { x: new ort.Tensor('float32', new Float32Array(0), [0, inner]) });
    expect(y!.dims).toEqual([0, outer]);
  });

  it('rounds an input once for all products that read it', () => {
    const model = modelWith({ op: 'MatMul' });
    const { graph } = model;
    const again = new Builder(graph, '/twin').op('MatMul', graph.nodes[0]!.inputs, {
      dtype: 'float32',
      shape: [rows, outer],
    });
    graph.outputs.push(again);
    expect(int8Products(model, plain)).toBe(2);
    expect(graph.nodes.filter(({ op }) => op === 'QuantizeLinear')).toHaveLength(1);
  });

  it('leaves small weights, trained ones and the backward product of the output embedding', () => {
    const small = modelWith({ op: 'MatMul' });
    const weight = small.graph.nodes[0]!.inputs[1]!;
    weight.initializer = Tensor.float32(new Float32Array(16000), [160, 100]);
    expect(int8Products(small, plain)).toBe(0);

    const trained = modelWith({ op: 'MatMul' });
    const parameter = trained.graph.nodes[0]!.inputs[1]!;
    parameter.initializer = null;
    trained.graph.initializers.delete(parameter);
    trained.graph.inputs.push(parameter);
    expect(int8Products(trained, plain)).toBe(0);

    const changed = (product: Product, width: number) => {
      const model = modelWith(product);
      const { initializer } = model.graph.nodes[0]!.inputs[1]!;
      return int8Products(model, { ...plain, forwardOnly: new Map([[initializer!, width]]) });
    };
    expect([
      changed({ op: 'Gemm', transB: true }, inner),
      changed({ op: 'Gemm', transB: true }, outer),
    ]).toEqual([1, 0]);
    expect([changed({ op: 'MatMul' }, inner), changed({ op: 'MatMul' }, outer)]).toEqual([1, 0]);
  });
});
