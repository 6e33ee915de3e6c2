import { Tensor } from '../../onnx/tensor.ts';
import type { Lowering, Site } from './lowering.ts';

/** Element i of a row of packed bytes, low bits first. */
const element = (bytes: Uint8Array, row: number, i: number, bits: number): number => {
  const at = i * bits;
  return (bytes[row + (at >> 3)]! >> (at & 7)) & ((1 << bits) - 1);
};

interface Blocked {
  /** [K, N], unsigned. */
  readonly elements: Uint8Array;
  /** [blocks, N] */
  readonly scales: Float32Array;
  /** [blocks, N]; undefined: 2^(bits-1) everywhere. */
  readonly zeros?: Float32Array;
}

/**
 * com.microsoft MatMulNBits: A [..., K], B uint8 [N, blocks, blockSize*bits/8], scales, zero_points? (packed uint8
 * like B, or floats), bias? [N] -> A W^T. W becomes the transposed block-wise integers [K, N] under DequantizeLinear:
 * one 4-bit copy that the forward and the backward product share.
 */
export const matMulNBits: Lowering = (node, at) => {
  const [K, N, bits, block] = ['K', 'N', 'bits', 'block_size'].map((name) =>
    node.int(name, name === 'bits' ? 4 : 0),
  ) as [number, number, number, number];
  if (node.int('weight_prepacked', 0) !== 0) at.refuse('its weights are packed for one kind of GPU');
  if (node.inputs[4]) at.refuse('it reorders the groups of its weights (g_idx)');
  if (![2, 4, 8].includes(bits)) at.refuse(`it has weights of ${bits} bits`);
  const weight = dequantized(at, blocked(at, K, N, bits, block), K, N, bits, block);
  const product = at.main('MatMul', [at.input(0), weight]);
  return [node.inputs[5] ? at.op('Add', [product, node.inputs[5]]) : product];
};

function blocked(at: Site, K: number, N: number, bits: number, block: number): Blocked {
  const blocks = Math.ceil(K / block);
  const constant = (index: number) =>
    at.input(index).initializer ?? at.refuse(`its input ${index} is not a constant`);
  const packed = constant(1).bytes();
  const rowBytes = (blocks * block * bits) / 8;
  const elements = new Uint8Array(K * N);
  for (let n = 0; n < N; n++)
    for (let k = 0; k < K; k++) elements[k * N + n] = element(packed, n * rowBytes, k, bits);
  const turned = (values: ArrayLike<number>) => {
    const out = new Float32Array(blocks * N);
    for (let n = 0; n < N; n++) for (let b = 0; b < blocks; b++) out[b * N + n] = values[n * blocks + b]!;
    return out;
  };
  const scales = turned(constant(2).toFloat32());
  if (!at.node.inputs[3]) return { elements, scales };
  const points = constant(3);
  if (points.dtype !== 'uint8') return { elements, scales, zeros: turned(points.toFloat32()) };
  const bytes = points.bytes();
  const zeroRow = Math.ceil((blocks * bits) / 8);
  const zeros = new Float32Array(blocks * N);
  for (let n = 0; n < N; n++)
    for (let b = 0; b < blocks; b++) zeros[b * N + n] = element(bytes, n * zeroRow, b, bits);
  return { elements, scales, zeros };
}

function dequantized(at: Site, weight: Blocked, K: number, N: number, bits: number, block: number) {
  const { elements, scales, zeros } = weight;
  const blocks = Math.ceil(K / block);
  const name = at.node.inputs[1]!.name;
  if (zeros?.some((zero) => !Number.isInteger(zero))) {
    // Zero points between the integers have no operator: the weight is written out.
    const values = new Float32Array(K * N);
    for (let k = 0; k < K; k++)
      for (let n = 0; n < N; n++) {
        const b = Math.floor(k / block) * N + n;
        values[k * N + n] = (elements[k * N + n]! - zeros[b]!) * scales[b]!;
      }
    return at.graph.constant(`${name}/float`, new Tensor('float32', [K, N], new Uint8Array(values.buffer)));
  }
  // Blocks along an axis, and 4-bit integers, came with opset 21.
  at.require(21);
  const dtype = bits === 8 ? 'uint8' : 'uint4';
  const points = zeros ?? new Float32Array(blocks * N).fill(2 ** (bits - 1));
  const inputs = [
    at.graph.constant(`${name}/${dtype}`, Tensor.of(dtype, elements, [K, N])),
    at.graph.constant(`${name}/scales`, Tensor.float32(scales, [blocks, N])),
    at.graph.constant(`${name}/zero_points`, Tensor.of(dtype, points, [blocks, N])),
  ];
  return at.op('DequantizeLinear', inputs, { axis: 0, block_size: block });
}
