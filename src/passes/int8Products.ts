import { Builder } from '../onnx/builder.ts';
import type { Model, Node, Value } from '../onnx/graph.ts';
import type { Tensor } from '../onnx/tensor.ts';
import { prune } from './prune.ts';

/** W [K, N] ~ values * scales, one scale a column. */
export interface Int8Weight {
  /** int8 [K, N], -127 to 127. */
  readonly values: Tensor;
  /** float32 [N]. */
  readonly scales: Tensor;
}

export interface Int8Options {
  /** The constant [K, N], or the transpose of the constant [N, K], in 8 bits; the same object each time. */
  quantise(weight: Tensor, transposed: boolean): Int8Weight;
  /**
   * Weights that are rounded only where they multiply vectors of this length: the output embedding in its forward
   * product. In the backward product, each row is a softmax over the vocabulary, whose many small entries would be lost.
   */
  readonly forwardOnly: ReadonlyMap<Tensor, number>;
}

/** Products by fewer weights (128 x 128) gain nothing: the passes over the activations cost what the product saves. */
export const fewestWeights = 2 ** 14;

/**
 * Computes products of activations and frozen float32 weights in 8 bits, in place: y = x W becomes
 * m ((x / m) W) with m the largest magnitude of each row of x, x / m rounded to 1/127, and W rounded with a scale for
 * each column. Rows are scaled since their sizes differ by orders of magnitude: in a gradient, labelled positions
 * against the others. The activations are unsigned with zero point 128: that is the form which ONNX Runtime has fast
 * kernels for. In a graph with gradients the products by W^T are treated alike: each direction rounds for itself.
 * Returns how many products changed.
 */
export function int8Products(model: Model, options: Int8Options): number {
  const { graph } = model;
  const builder = new Builder(graph, '');
  const rounded = new Map<Value, Rounded>();
  const written = new Map<Int8Weight, { readonly values: Value; readonly scales: Value }>();
  let changed = 0;
  for (const node of [...graph.nodes]) {
    const found = frozenProduct(node);
    if (!found) continue;
    const { x, weight, transposed, bias } = found;
    const inner = options.forwardOnly.get(weight);
    if (inner !== undefined && inner !== weight.dims[transposed ? 1 : 0]) continue;
    const name = node.name.replace(/^\//, '') || node.op;
    const rows = rounded.get(x) ?? roundRows(builder, model, x, name);
    rounded.set(x, rows);
    const quantised = options.quantise(weight, transposed);
    const constants = written.get(quantised) ?? {
      values: builder.constant(`${name}/int8`, quantised.values),
      scales: builder.constant(`${name}/int8/scales`, quantised.scales),
    };
    written.set(quantised, constants);
    const type = { dtype: node.output.dtype, shape: node.output.shape };
    const product = builder.op(
      'MatMulIntegerToFloat',
      [rows.integers, constants.values, rows.step, constants.scales, rows.zero],
      { ...type, name: `${name}/int8`, domain: 'com.microsoft' },
    );
    const scaled = builder.op('Mul', [product, rows.size], { ...type, name: `${name}/int8/Mul` });
    const y = bias ? builder.op('Add', [scaled, bias], { ...type, name: `${name}/int8/Add` }) : scaled;
    y.producer!.metadata = node.metadata;
    graph.takePlace(node.output, y);
    changed++;
  }
  if (changed === 0) return 0;
  model.opsets.set('com.microsoft', 1);
  prune(graph);
  graph.sort();
  return changed;
}

interface FrozenProduct {
  readonly x: Value;
  readonly weight: Tensor;
  readonly transposed: boolean;
  readonly bias: Value | null;
}

/** A product of activations [..., K] and a large float32 constant. */
function frozenProduct(node: Node): FrozenProduct | undefined {
  const fused = node.domain === 'com.microsoft' && node.op === 'FusedMatMul';
  if (!fused && (node.domain !== '' || (node.op !== 'MatMul' && node.op !== 'Gemm'))) return undefined;
  const [x, b, bias = null] = node.inputs;
  const weight = b?.initializer;
  if (!x || x.initializer || !weight || weight.dims.length !== 2 || weight.dtype !== 'float32')
    return undefined;
  if (weight.size < fewestWeights || (x.shape?.length ?? 0) < 2) return undefined;
  const plain =
    node.int('transA', 0) === 0 &&
    node.int('transBatchA', 0) === 0 &&
    node.int('transBatchB', 0) === 0 &&
    node.float('alpha', 1) === 1 &&
    (!bias || node.float('beta', 1) === 1);
  return plain ? { x, weight, transposed: node.int('transB', 0) === 1, bias } : undefined;
}

interface Rounded {
  /** uint8, of x's shape. */
  readonly integers: Value;
  readonly step: Value;
  readonly zero: Value;
  /** float32 [..., 1]. */
  readonly size: Value;
}

function roundRows(builder: Builder, { opsets }: Model, x: Value, name: string): Rounded {
  const lead = x.shape!.slice(0, -1);
  const float = { dtype: 'float32', shape: x.shape } as const;
  const column = { dtype: 'float32', shape: [...lead, 1] } as const;
  const magnitude = builder.op('Abs', [x], { ...float, name: `${name}/rows/Abs` });
  const largest =
    (opsets.get('') ?? 0) < 18
      ? builder.op('ReduceMax', [magnitude], {
          ...column,
          attributes: { axes: [-1] },
          name: `${name}/rows/Max`,
        })
      : builder.op('ReduceMax', [magnitude, builder.ints([-1])], { ...column, name: `${name}/rows/Max` });
  // ONNX Runtime leaves the axis of an empty tensor as it is, and a chunk of the loss may have no rows.
  const range = [builder.ints([0]), builder.ints([1]), builder.ints([-1])];
  const first = builder.op('Slice', [largest, ...range], { ...column, name: `${name}/rows/Slice` });
  // A row of zeros, such as a position that no gradient reaches, stays one.
  const size = builder.op('Add', [first, builder.scalar(1e-30)], { ...column, name: `${name}/rows/size` });
  const unit = builder.op('Div', [x, size], { ...float, name: `${name}/rows/Div` });
  const step = builder.scalar(1 / 127);
  const zero = builder.scalar(128, 'uint8');
  const integers = builder.op('QuantizeLinear', [unit, step, zero], {
    dtype: 'uint8',
    shape: x.shape,
    name: `${name}/rows/QuantizeLinear`,
  });
  return { integers, step, zero, size };
}
