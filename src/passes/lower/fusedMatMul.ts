import type { Value } from '../../onnx/graph.ts';
import type { Lowering, Site } from './lowering.ts';

function swapped(at: Site, x: Value, swap: boolean): Value {
  if (!swap) return x;
  const rank = at.shape(x).length;
  if (rank < 2) return x;
  const perm = Array.from({ length: rank }, (_, axis) => axis);
  return at.transpose(x, [...perm.slice(0, -2), rank - 1, rank - 2]);
}

/** com.microsoft FusedMatMul: alpha op(A) op(B), where op swaps the last two axes or does nothing. */
export const fusedMatMul: Lowering = (node, at) => {
  if (node.int('transBatchA', 0) !== 0 || node.int('transBatchB', 0) !== 0)
    at.refuse('it transposes batch axes');
  const a = swapped(at, at.input(0), node.int('transA', 0) !== 0);
  const b = swapped(at, at.input(1), node.int('transB', 0) !== 0);
  const product = at.main('MatMul', [a, b]);
  const alpha = node.float('alpha', 1);
  return [alpha === 1 ? product : at.op('Mul', [product, at.scalar(alpha)])];
};
