import type { Value } from '../../onnx/graph.ts';
import { permutation } from '../constants.ts';
import type { Emitter } from '../emitter.ts';
import type { Gradient } from '../rule.ts';

/**
 * Y = A B with numpy's broadcasting of the leading axes; 1-D operands included.
 *
 * For a 2-D right side (a weight, or an adapter's matrix): dA = dY B^T, dB = sum over rows of A^T dY. A transposed
 * copy of a frozen B must not appear, since constant folding would keep it beside B: Gemm reads B as it lies, and
 * where B is itself a transpose, its source is read. All forms work when an adapter's rank, K or N here, is 0.
 */
export const MatMul: Gradient = ({ x: [a, b], dy, e, refuse }) => {
  const [rankA, rankB] = [a!.shape?.length, b!.shape?.length];
  if (rankB === 2 && rankA !== 1)
    return [
      () => timesTransposed(e, dy, b!, a!),
      () => {
        // (M..., K)^T (M..., N), or its transpose, which cancels against a transpose that made B
        const [x, d] = [e.rows(a!), e.rows(dy)];
        if (transposed(b!)) return e.transpose(e.gemm(d, x, { transA: true }), [1, 0]);
        return e.gemm(x, d, { transA: true });
      },
    ];
  if (rankA === undefined || rankB === undefined)
    return refuse('the rank of an operand is unknown; infer shapes before differentiating');

  // (B..., M, K) (B..., K, N); a 1-D operand becomes a row or a column first
  const row = (value: Value) => (rankA === 1 ? e.unsqueeze(value, [-2]) : value);
  const column = (value: Value) => (rankB === 1 ? e.unsqueeze(value, [-1]) : value);
  const [A, B] = [rankA === 1 ? e.unsqueeze(a!, [0]) : a!, rankB === 1 ? e.unsqueeze(b!, [1]) : b!];
  const dY = () => row(column(dy));
  return [
    () => {
      const dA = e.sumTo(e.matmul(dY(), e.transposeLast(B)), A);
      return rankA === 1 ? e.squeeze(dA, [0]) : dA;
    },
    () => {
      const dB = e.sumTo(e.matmul(e.transposeLast(A), dY()), B);
      return rankB === 1 ? e.squeeze(dB, [1]) : dB;
    },
  ];
};

/** dY (M..., N) times B^T, B (K, N), in the shape of A (M..., K). */
function timesTransposed(e: Emitter, dy: Value, b: Value, a: Value): Value {
  const source = transposed(b);
  if (source) return e.op('MatMul', [dy, dequantized(e, source)], {}, { shape: a.shape });
  // Before opset 14 a Reshape cannot make a length of 0, which an adapter's rank, K here, may be.
  if (e.opset < 14 && typeof b.shape![0] !== 'number') return e.matmul(dy, e.transposeLast(b));
  const product = e.gemm(e.rows(dy), dequantized(e, b), { transB: true });
  return a.shape?.length === 2 ? product : e.reshape(product, shapeOfRows(e, dy, b, a), a.shape);
}

/**
 * A quantised weight dequantised anew: were the forward product's copy read, all layers' weights would stay in memory
 * as floats until the backward pass reaches them. Other values as they are.
 */
function dequantized(e: Emitter, weight: Value): Value {
  const node = weight.producer;
  if (node?.op !== 'DequantizeLinear' || node.inputs.some((value) => value && !value.initializer))
    return weight;
  return e.op(node.op, node.inputs, Object.fromEntries(node.attributes), weight);
}

/** The shape of A (M..., K) as a vector, read off dY and B where that spares A from being kept. */
function shapeOfRows(e: Emitter, dy: Value, b: Value, a: Value): Value {
  const columns = b.shape![0]!;
  const open = !a.shape || a.shape.some((dim) => dim === null);
  if (!open || typeof columns !== 'number') return e.lengths.of(a);
  const lead = e.op('Slice', [e.lengths.of(dy), e.builder.ints([0]), e.builder.ints([-1])]);
  return e.concat([lead, e.builder.ints([columns])], 0);
}

/** What a 2-D value is the transpose of, if it is one. */
function transposed(value: Value): Value | undefined {
  const node = value.producer;
  if (node?.op !== 'Transpose' || node.domain !== '') return undefined;
  return permutation(node, 2)[0] === 1 ? node.inputs[0]! : undefined;
}

/** Y = alpha op(A) op(B) + beta C, C broadcast to (M, N). */
export const Gemm: Gradient = ({ node, x: [a, b, c], dy, e }) => {
  const [transA, transB] = [node.int('transA', 0) === 1, node.int('transB', 0) === 1];
  const alpha = node.float('alpha', 1);
  return [
    () =>
      transA
        ? e.gemm(dequantized(e, b!), dy, { transA: transB, transB: true, alpha })
        : e.gemm(dy, dequantized(e, b!), { transB: !transB, alpha }),
    () =>
      transB
        ? e.gemm(dy, a!, { transA: true, transB: transA, alpha })
        : e.gemm(a!, dy, { transA: !transA, alpha }),
    () => e.mul(e.sumTo(dy, c!), node.float('beta', 1)),
  ];
};
