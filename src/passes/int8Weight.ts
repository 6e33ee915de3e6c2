import { Tensor } from '../onnx/tensor.ts';
import type { Int8Weight } from './int8Products.ts';

/** Rows of the source that are transposed together, so that both sides stay in the cache. */
const strip = 64;

/**
 * A float32 matrix [K, N], or the transpose of one [N, K], as int8 [K, N] with a symmetric scale for each column.
 *
 * @param most Largest magnitude of the integers, 127 at most; 64 keeps two products with unsigned 8-bit numbers in 16
 *   bits.
 */
export function quantiseWeight(weight: Tensor, transposed: boolean, most = 127): Int8Weight {
  const floats = weight.toFloat32();
  const [rows, width] = weight.dims as [number, number];
  const largest = (transposed ? largestOfRows : largestOfColumns)(floats, rows, width);
  // A column of zeros has no scale.
  const factors = largest.map((value) => (value > 0 ? most / value : 0));
  const values = new Int8Array(floats.length);
  if (transposed)
    for (let from = 0; from < rows; from += strip) {
      const to = Math.min(rows, from + strip);
      for (let column = 0; column < width; column++)
        for (let row = from; row < to; row++)
          values[column * rows + row] = nearest(floats[row * width + column]! * factors[row]!);
    }
  else
    for (let row = 0, i = 0; row < rows; row++)
      for (let column = 0; column < width; column++, i++) values[i] = nearest(floats[i]! * factors[column]!);
  return {
    values: new Tensor('int8', transposed ? [width, rows] : [rows, width], new Uint8Array(values.buffer)),
    scales: Tensor.float32(largest.map((value) => value / most)),
  };
}

/** Nearest integer of a number in (-128, 128): faster than Math.round by far. */
const nearest = (value: number) => ((value + 128.5) | 0) - 128;

function largestOfRows(floats: Float32Array, rows: number, width: number): Float32Array {
  const largest = new Float32Array(rows);
  for (let row = 0, i = 0; row < rows; row++) {
    let most = 0;
    for (let column = 0; column < width; column++, i++) most = Math.max(most, Math.abs(floats[i]!));
    largest[row] = most;
  }
  return largest;
}

function largestOfColumns(floats: Float32Array, rows: number, width: number): Float32Array {
  const largest = new Float32Array(width);
  for (let row = 0, i = 0; row < rows; row++)
    for (let column = 0; column < width; column++, i++)
      largest[column] = Math.max(largest[column]!, Math.abs(floats[i]!));
  return largest;
}
