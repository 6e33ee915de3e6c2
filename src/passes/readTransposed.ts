import { Builder } from '../onnx/builder.ts';
import type { Model, Value } from '../onnx/graph.ts';
import { prune } from './prune.ts';

/**
 * Makes products read transposed operands as they lie, in place. A transposed constant would be computed when ONNX
 * Runtime loads the graph and kept beside the original; the transposes of batched activations, which attention's
 * gradients read, would be carried out. A 2-D product with a transposed constant becomes Gemm, others FusedMatMul where
 * `fused` allows it (a kernel of CPU and CUDA). Returns how many products changed.
 */
export function readTransposed(model: Model, { fused }: { readonly fused: boolean }): number {
  const { graph } = model;
  let changed = 0;
  for (const node of graph.nodes.filter(({ op, domain }) => op === 'MatMul' && domain === '')) {
    const [a, b] = [node.inputs[0]!, node.inputs[1]!];
    // FusedMatMul takes the wrong numbers where the other operand is a vector.
    if (rankOf(a) < 2 || rankOf(b) < 2) continue;
    const weight = swapped(b, 2);
    const flat = a.shape?.length === 2 && weight?.initializer;
    const left = swapped(a, 3);
    const right = weight?.initializer ? weight : swapped(b, 3);
    if (!flat && !(fused && (left || right))) continue;
    const product = new Builder(graph, '').op(flat ? 'Gemm' : 'FusedMatMul', [left ?? a, right ?? b], {
      name: `${(node.name || node.op).replace(/^\//, '')}/transposed`,
      domain: flat ? '' : 'com.microsoft',
      attributes: { transA: left ? 1 : undefined, transB: right ? 1 : undefined },
      dtype: node.output.dtype,
      shape: node.output.shape,
    });
    if (!flat) model.opsets.set('com.microsoft', 1);
    graph.takePlace(node.output, product);
    changed++;
  }
  if (changed > 0) prune(graph);
  return changed;
}

/** Number of axes; 0 where it is not known. */
const rankOf = ({ shape, producer }: Value) => shape?.length ?? producer?.ints('perm')?.length ?? 0;

/** What the value is a transpose of, when its last two axes change places and it has at least `rank` axes. */
export function swapped(value: Value, rank: number): Value | undefined {
  const node = value.producer;
  if (node?.op !== 'Transpose' || node.domain !== '') return undefined;
  const perm = node.ints('perm');
  const axes = perm?.length ?? 0;
  if (!perm || axes < rank || (axes > 2 && rank === 2)) return undefined;
  const last = perm.every((axis, i) => axis === (i < axes - 2 ? i : 2 * axes - 3 - i));
  return last ? (node.inputs[0] ?? undefined) : undefined;
}
