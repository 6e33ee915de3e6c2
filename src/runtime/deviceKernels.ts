import { describe, type Graph, type Node } from '../onnx/graph.ts';
import type { HasKernel } from '../passes/lower.ts';
import type { Device } from './session.ts';

/** Operators that a device leaves to the CPU; every such node costs a copy there and back. */
export interface MissingKernel {
  /** Operator with its domain, as `com.microsoft.FusedMatMul`. */
  readonly op: string;
  readonly nodes: number;
  /** The first of them. */
  readonly example: string;
}

/**
 * Operators on float32 with a kernel in the WebGPU provider of ONNX Runtime 1.30 as onnxruntime-node bundles it:
 * those whose session opens with `session.disable_cpu_ep_fallback`.
 */
const webgpu = new Set(
  `Abs Add And ArgMax Cast Ceil Clip Concat Conv Cos CumSum DequantizeLinear Div Einsum Elu Equal Erf Exp Expand
  Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual HardSigmoid HardSwish Identity
  InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log MatMul Max Min Mish Mul Neg Not PRelu Pad Pow
  RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
  ReduceProd ReduceSum ReduceSumSquare Relu Reshape RotaryEmbedding ScatterElements ScatterND Sigmoid
  SimplifiedLayerNormalization Sin SkipLayerNormalization Slice Softmax Softplus Split Sqrt Squeeze Sub Swish Tan Tanh
  ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where
  com.microsoft.BiasGelu com.microsoft.FastGelu com.microsoft.GatherBlockQuantized com.microsoft.Gelu
  com.microsoft.GroupQueryAttention com.microsoft.MatMulNBits com.microsoft.MultiHeadAttention com.microsoft.QuickGelu
  com.microsoft.RotaryEmbedding com.microsoft.SkipLayerNormalization com.microsoft.SkipSimplifiedLayerNormalization`.split(
    /\s+/,
  ),
);

/** Operators without a float32 kernel in the CUDA provider, by ONNX Runtime's own list of kernels; not measured. */
const withoutCuda = new Set([
  'Attention',
  'MatMulInteger',
  'com.microsoft.DynamicQuantizeMatMul',
  'com.microsoft.GroupQueryAttention',
  'com.microsoft.MatMulIntegerToFloat',
]);

/** Whether a device has a kernel on float32 for an operator, named with its domain. */
export const kernels: Readonly<Record<Device, HasKernel>> = {
  cpu: () => true,
  cuda: (op) => !withoutCuda.has(op),
  webgpu: (op) => webgpu.has(op),
};

/** Types of lengths, indices and masks. */
const lengths: ReadonlySet<string> = new Set(['int64', 'bool']);

/**
 * Operators of a graph that the device has no kernel for, most frequent first. Arithmetic on lengths and masks
 * (int64, bool) runs on the CPU by design and does not count.
 */
export function missingKernels(graph: Graph, device: Device): MissingKernel[] {
  const found = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    const op = node.domain === '' ? node.op : `${node.domain}.${node.op}`;
    const computes = node.outputs.some((value) => value?.dtype && !lengths.has(value.dtype));
    if (computes && node.op !== 'Constant' && !kernels[device](op))
      found.set(op, [...(found.get(op) ?? []), node]);
  }
  return [...found]
    .map(([op, nodes]) => ({ op, nodes: nodes.length, example: describe(nodes[0]!) }))
    .sort((a, b) => b.nodes - a.nodes);
}
