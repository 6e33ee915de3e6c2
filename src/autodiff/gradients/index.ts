import type { Gradient } from '../rule.ts';
import { Elu, Erf, Gelu, HardSigmoid, LeakyRelu, Relu, Sigmoid, Softplus, Tanh } from './activation.ts';
import {
  Abs,
  Add,
  Cos,
  Div,
  Exp,
  Log,
  Mul,
  Neg,
  Pow,
  Reciprocal,
  Sin,
  Sqrt,
  Sub,
  Sum,
} from './arithmetic.ts';
import { Concat, Split } from './concat.ts';
import { Einsum } from './einsum.ts';
import { Gather, GatherElements, GatherND, ScatterElements, ScatterND, TopK } from './gather.ts';
import { Cast, CastLike, Dropout, Identity } from './identity.ts';
import { Gemm, MatMul } from './matmul.ts';
import { LayerNormalization, RMSNormalization } from './normalization.ts';
import {
  CumSum,
  ReduceL1,
  ReduceL2,
  ReduceLogSumExp,
  ReduceMax,
  ReduceMean,
  ReduceMin,
  ReduceSum,
  ReduceSumSquare,
} from './reduce.ts';
import { RotaryEmbedding } from './rotary.ts';
import { Clip, Max, Min, Where } from './select.ts';
import { Expand, Flatten, Reshape, Squeeze, Tile, Transpose, Trilu, Unsqueeze } from './shape.ts';
import { Pad, Slice } from './slice.ts';
import { LogSoftmax, Softmax } from './softmax.ts';

/** The gradient of each operator of ai.onnx, others by domain and operator. A new operator is a file (or a line in one) and a line here. */
export const gradients = {
  Abs,
  Add,
  Cast,
  CastLike,
  Clip,
  Concat,
  Cos,
  CumSum,
  Div,
  Dropout,
  Einsum,
  Elu,
  Erf,
  Exp,
  Expand,
  Flatten,
  Gather,
  GatherElements,
  GatherND,
  Gelu,
  Gemm,
  HardSigmoid,
  Identity,
  LayerNormalization,
  LeakyRelu,
  Log,
  LogSoftmax,
  MatMul,
  Max,
  Min,
  Mul,
  Neg,
  Pad,
  Pow,
  RMSNormalization,
  Reciprocal,
  ReduceL1,
  ReduceL2,
  ReduceLogSumExp,
  ReduceMax,
  ReduceMean,
  ReduceMin,
  ReduceSum,
  ReduceSumSquare,
  Relu,
  Reshape,
  ScatterElements,
  ScatterND,
  Sigmoid,
  Sin,
  Slice,
  Softmax,
  Softplus,
  Split,
  Sqrt,
  Squeeze,
  Sub,
  Sum,
  Tanh,
  Tile,
  TopK,
  Transpose,
  Trilu,
  Unsqueeze,
  Where,
  'com.microsoft.RotaryEmbedding': RotaryEmbedding,
} as const satisfies Record<string, Gradient>;

/** An operator of ai.onnx that has a gradient. */
export type DifferentiableOp = keyof typeof gradients;

/** Operators through which no gradient flows: integer or boolean results, or steps. */
export const stops: ReadonlySet<string> = new Set([
  'And',
  'ArgMax',
  'ArgMin',
  'BitwiseAnd',
  'Ceil',
  'ConstantOfShape',
  'DynamicQuantizeLinear',
  'Equal',
  'EyeLike',
  'Floor',
  'Greater',
  'GreaterOrEqual',
  'IsInf',
  'IsNaN',
  'Less',
  'LessOrEqual',
  'NonZero',
  'Not',
  'Or',
  'Round',
  'Shape',
  'Sign',
  'Size',
  'Xor',
]);
