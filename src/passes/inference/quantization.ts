import { dtypeOf } from '../../onnx/dtype.ts';
import { multiply } from '../symbolic.ts';
import { dtypeAt, type Rule, shapeAt } from './rule.ts';

/** Output type: `output_dtype` (opset 21), else that of the zero point, else uint8. */
const quantize: Rule = (node) => [
  {
    dtype: dtypeOf(node.int('output_dtype', 0)) ?? dtypeAt(node, 2) ?? 'uint8',
    shape: shapeAt(node, 0),
  },
];

const dequantize: Rule = (node) => [
  { dtype: dtypeOf(node.int('output_dtype', 0)) ?? dtypeAt(node, 1), shape: shapeAt(node, 0) },
];

const dynamicQuantize: Rule = (node) => [
  { dtype: 'uint8', shape: shapeAt(node, 0) },
  { dtype: 'float32', shape: [] },
  { dtype: 'uint8', shape: [] },
];

/** Rows of a block-quantised table: packed bytes hold 8/bits elements of the last axis. */
const gatherBlock: Rule = (node) => {
  const data = shapeAt(node, 0);
  const indices = shapeAt(node, 1);
  const dtype = dtypeAt(node, 2);
  if (!data || !indices || node.int('gather_axis', 0) !== 0) return [{ dtype, shape: null }];
  const perByte = dtypeAt(node, 0) === 'uint8' ? 8 / node.int('bits', 4) : 1;
  const row = data.slice(1).map((dim, axis, all) => (axis === all.length - 1 ? multiply(dim, perByte) : dim));
  return [{ dtype, shape: [...indices, ...row] }];
};

/** Quantised tensors to and from floats. */
export const quantizationRules: Readonly<Record<string, Rule>> = {
  QuantizeLinear: quantize,
  DequantizeLinear: dequantize,
  'com.microsoft.QuantizeLinear': quantize,
  'com.microsoft.DequantizeLinear': dequantize,
  DynamicQuantizeLinear: dynamicQuantize,
  'com.microsoft.GatherBlockQuantized': gatherBlock,
};
