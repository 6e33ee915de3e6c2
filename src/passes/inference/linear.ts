import type { DType } from '../../onnx/dtype.ts';
import type { Dim, Node } from '../../onnx/graph.ts';
import { add, divide } from '../symbolic.ts';
import { broadcast, dtypeAt, type Inferred, type Rule, type Scope, shapeAt } from './rule.ts';

/** Shape of a batched matrix product; vectors gain and lose an axis as in numpy. */
function productShape(left: readonly Dim[] | null, right: readonly Dim[] | null): readonly Dim[] | null {
  if (!left || !right || left.length === 0 || right.length === 0) return null;
  const a = left.length === 1 ? [1, ...left] : left;
  const b = right.length === 1 ? [...right, 1] : right;
  const batch = broadcast(a.slice(0, -2), b.slice(0, -2))!;
  return [...batch, ...(left.length === 1 ? [] : [a.at(-2)!]), ...(right.length === 1 ? [] : [b.at(-1)!])];
}

const matMul =
  (right: number, dtype?: DType): Rule =>
  (node) => [
    { dtype: dtype ?? dtypeAt(node, 0), shape: productShape(shapeAt(node, 0), shapeAt(node, right)) },
  ];

const swapped = (shape: readonly Dim[] | null, swap: boolean) =>
  shape && swap && shape.length >= 2 ? [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!] : shape;

const fusedMatMul: Rule = (node) => {
  const batchMoved = node.int('transBatchA', 0) !== 0 || node.int('transBatchB', 0) !== 0;
  const a = swapped(shapeAt(node, 0), node.int('transA', 0) !== 0);
  const b = swapped(shapeAt(node, 1), node.int('transB', 0) !== 0);
  return [{ dtype: dtypeAt(node, 0), shape: batchMoved ? null : productShape(a, b) }];
};

const gemm: Rule = (node) => {
  const a = swapped(shapeAt(node, 0), node.int('transA', 0) !== 0);
  const b = swapped(shapeAt(node, 1), node.int('transB', 0) !== 0);
  return [{ dtype: dtypeAt(node, 0), shape: [a?.[0] ?? null, b?.[1] ?? null] }];
};

const einsum: Rule = (node) => {
  const dtype = dtypeAt(node, 0);
  const equation = node.string('equation', '').replaceAll(' ', '');
  const [left = '', right] = equation.split('->');
  if (right === undefined || /\./.test(equation)) return [{ dtype, shape: null }];
  const dims = new Map<string, Dim>();
  left.split(',').forEach((labels, i) => {
    [...labels].forEach((label, axis) => {
      const dim = shapeAt(node, i)?.[axis] ?? null;
      const known = dims.get(label) ?? null;
      // A label's lengths agree, or one of them is 1 and stretches.
      if (known === null || known === 1 || (typeof dim === 'number' && dim !== 1)) dims.set(label, dim);
    });
  });
  return [{ dtype, shape: [...right].map((label) => dims.get(label) ?? null) }];
};

/** The output length of one spatial axis of a convolution or pooling window. */
function windowed(dim: Dim, kernel: Dim, stride: number, padding: number, dilation: number): Dim {
  if (typeof kernel !== 'number') return null;
  const room = add(dim, padding - dilation * (kernel - 1) - 1);
  return add(divide(room, stride), 1);
}

function spatial(node: Node, kernel: readonly Dim[] | null): Dim[] | null {
  const data = shapeAt(node, 0);
  if (!data || !kernel) return null;
  const auto = node.string('auto_pad', 'NOTSET');
  return data.slice(2).map((dim, axis, all) => {
    const stride = node.ints('strides')?.[axis] ?? 1;
    if (auto.startsWith('SAME')) return divide(add(dim, stride - 1), stride);
    const pads = auto === 'VALID' ? undefined : node.ints('pads');
    const padding = (pads?.[axis] ?? 0) + (pads?.[axis + all.length] ?? 0);
    if (node.int('ceil_mode', 0) !== 0) return null;
    return windowed(dim, kernel[axis] ?? null, stride, padding, node.ints('dilations')?.[axis] ?? 1);
  });
}

const convolution =
  (dtype?: DType, weight = 1): Rule =>
  (node) => {
    const w = shapeAt(node, weight);
    const space = spatial(node, w?.slice(2) ?? null);
    return [
      {
        dtype: dtype ?? dtypeAt(node, 0),
        shape: space ? [shapeAt(node, 0)![0]!, w![0]!, ...space] : null,
      },
    ];
  };

const pooling: Rule = (node) => {
  const data = shapeAt(node, 0);
  const space = spatial(node, node.ints('kernel_shape') ?? null);
  return node.outputs.map((_, i): Inferred => {
    const dtype = i === 0 ? dtypeAt(node, 0) : 'int64';
    return { dtype, shape: space && data ? [data[0]!, data[1]!, ...space] : null };
  });
};

const globalPooling: Rule = (node) => {
  const data = shapeAt(node, 0);
  return [{ dtype: dtypeAt(node, 0), shape: data?.map((dim, axis) => (axis < 2 ? dim : 1)) ?? null }];
};

/** Products with block-wise or dynamically quantised weights [K, N]. */
const quantisedWeight: Rule = (node) => {
  const data = shapeAt(node, 0);
  return [
    {
      dtype: dtypeAt(node, 0),
      shape: data ? [...data.slice(0, -1), node.int('N', 0) || null] : null,
    },
  ];
};

const qLinearMatMul: Rule = (node: Node, _scope: Scope) => [
  { dtype: dtypeAt(node, 7), shape: productShape(shapeAt(node, 0), shapeAt(node, 3)) },
];

/** Matrix products, convolutions and pooling. */
export const linearRules: Readonly<Record<string, Rule>> = {
  MatMul: matMul(1),
  MatMulInteger: matMul(1, 'int32'),
  QLinearMatMul: qLinearMatMul,
  'com.microsoft.MatMulIntegerToFloat': matMul(1, 'float32'),
  'com.microsoft.DynamicQuantizeMatMul': matMul(1, 'float32'),
  'com.microsoft.MatMulNBits': quantisedWeight,
  'com.microsoft.MatMulBnb4': quantisedWeight,
  'com.microsoft.FusedMatMul': fusedMatMul,
  'com.microsoft.TransposeMatMul': fusedMatMul,
  Gemm: gemm,
  'com.microsoft.FusedGemm': gemm,
  Einsum: einsum,
  Conv: convolution(),
  ConvInteger: convolution('int32'),
  MaxPool: pooling,
  AveragePool: pooling,
  GlobalAveragePool: globalPooling,
  GlobalMaxPool: globalPooling,
};
