import { Tensor } from '../../onnx/tensor.ts';
import type { Lowering } from './lowering.ts';

/** Values of the 16 codes, as bitsandbytes has them (Dettmers et al. 2023, QLoRA, appendix E, for NormalFloat). */
const codes = {
  fp4: [
    0, 0.005208333333, 0.66666667, 1, 0.33333333, 0.5, 0.16666667, 0.25, 0, -0.005208333333, -0.66666667, -1,
    -0.33333333, -0.5, -0.16666667, -0.25,
  ],
  nf4: [
    -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
  ],
} as const;

/**
 * com.microsoft MatMulBnb4: A [..., K], B uint8 [N*K/2] with the high half first, absmax [N*K / block_size] -> A W^T,
 * where W [N, K] is code times absmax of its block of the flattened matrix. No plain operator reads such codes: the
 * weight is written out as float32 [K, N].
 */
export const matMulBnb4: Lowering = (node, at) => {
  const [K, N, block] = ['K', 'N', 'block_size'].map((name) => node.int(name, 0)) as [number, number, number];
  const packed = at.input(1).initializer?.bytes() ?? at.refuse('its weights are not a constant');
  const largest = at.input(2).initializer?.toFloat32() ?? at.refuse('its scales are not a constant');
  const values = node.int('quant_type', 1) === 0 ? codes.fp4 : codes.nf4;
  const weight = new Float32Array(K * N);
  for (let i = 0; i < N * K; i++) {
    const byte = packed[i >> 1]!;
    const code = i % 2 === 0 ? byte >> 4 : byte & 15;
    weight[(i % K) * N + Math.floor(i / K)] = values[code]! * largest[Math.floor(i / block)]!;
  }
  const constant = at.graph.constant(`${at.input(1).name}/float`, Tensor.float32(weight, [K, N]));
  return [at.main('MatMul', [at.input(0), constant])];
};
