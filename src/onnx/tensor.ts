import { closeSync, openSync, readSync } from 'node:fs';
import { isAbsolute, relative, sep } from 'node:path';
import { AloraError } from '../errors.ts';
import { byteLength, type DType } from './dtype.ts';
import { bfloat16ToFloat32, float16ToFloat32, float32ToBfloat16, float32ToFloat16 } from './half.ts';

/** Where the bytes of a tensor lie in a file. Offsets and lengths in bytes. */
export interface ExternalData {
  /** Absolute path of the data file. */
  readonly path: string;
  readonly offset: number;
  readonly length: number;
  /** The file is an .onnx file, not one of external data: other models cannot refer to it. */
  readonly embedded?: boolean;
}

/** Whether a path lies below a folder, both absolute: a model may only refer to such files. */
export function liesBelow(folder: string, path: string): boolean {
  const rest = relative(folder, path);
  return rest !== '' && rest !== '..' && !rest.startsWith(`..${sep}`) && !isAbsolute(rest);
}

/** A little-endian typed-array view when the bytes are aligned, else over a copy. */
function aligned<T>(
  bytes: Uint8Array,
  make: { new (buffer: ArrayBufferLike, offset: number, length: number): T; BYTES_PER_ELEMENT: number },
): T {
  const size = make.BYTES_PER_ELEMENT;
  // Not bytes.slice(): on a Node Buffer that is another view.
  const source = bytes.byteOffset % size === 0 ? bytes : new Uint8Array(bytes);
  return new make(source.buffer, source.byteOffset, source.byteLength / size);
}

function bytesOf(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/**
 * A constant tensor: element type, dimensions, and its bytes as ONNX stores them raw (little endian, row
 * major, 4-bit values packed low nibble first), in memory or in an external file that is read on demand.
 */
export class Tensor {
  constructor(
    readonly dtype: DType,
    readonly dims: readonly number[],
    /** Raw bytes, or where to find them. String tensors keep their elements in `strings` instead. */
    readonly source: Uint8Array | ExternalData,
    readonly strings?: readonly Uint8Array[],
  ) {
    const expected = byteLength(dtype, this.size);
    const actual = source instanceof Uint8Array ? source.byteLength : source.length;
    if (dtype !== 'string' && expected !== actual)
      throw new AloraError(
        'model',
        'MODEL_TENSOR_SIZE',
        'A tensor holds more or fewer bytes than its shape says',
        {
          got: `${actual} bytes for ${dtype}[${dims.join(',')}]`,
          allowed: `${expected} bytes`,
          fix: 'Export or download the model again.',
        },
      );
  }

  static float32(values: ArrayLike<number>, dims: readonly number[] = [values.length]): Tensor {
    return new Tensor('float32', dims, bytesOf(Float32Array.from(values)));
  }

  static float64(values: ArrayLike<number>, dims: readonly number[] = [values.length]): Tensor {
    return new Tensor('float64', dims, bytesOf(Float64Array.from(values)));
  }

  static int64(values: readonly number[], dims: readonly number[] = [values.length]): Tensor {
    return new Tensor('int64', dims, bytesOf(BigInt64Array.from(values, toInt64)));
  }

  static int32(values: readonly number[], dims: readonly number[] = [values.length]): Tensor {
    return new Tensor('int32', dims, bytesOf(Int32Array.from(values)));
  }

  static bool(values: readonly boolean[], dims: readonly number[] = [values.length]): Tensor {
    return new Tensor('bool', dims, Uint8Array.from(values, Number));
  }

  /** A tensor of any numeric type from numbers: integers are truncated, floats rounded to the type. */
  static of(dtype: DType, values: ArrayLike<number>, dims: readonly number[]): Tensor {
    return new Tensor(dtype, dims, encodeNumbers(dtype, values));
  }

  /** Number of elements. */
  get size(): number {
    return this.dims.reduce((product, dim) => product * dim, 1);
  }

  get isExternal(): boolean {
    return !(this.source instanceof Uint8Array);
  }

  /** Bytes when stored raw. */
  get byteLength(): number {
    return byteLength(this.dtype, this.size);
  }

  /** The raw bytes; external ones are read from their file at each call. */
  bytes(): Uint8Array {
    return this.source instanceof Uint8Array ? this.source : readExternal(this.source);
  }

  /** The raw bytes in pieces; those of a file are read one after another. */
  *pieces(): Generator<Uint8Array> {
    if (this.source instanceof Uint8Array) yield this.source;
    else {
      const { path, offset, length } = this.source;
      const largest = 2 ** 20;
      for (let at = 0; at < length; at += largest)
        yield readExternal({ path, offset: offset + at, length: Math.min(largest, length - at) });
    }
  }

  /** All elements as float32; integers and float64 are converted. */
  toFloat32(): Float32Array {
    switch (this.dtype) {
      case 'float32':
        return aligned(this.bytes(), Float32Array);
      case 'float16':
        return float16ToFloat32(aligned(this.bytes(), Uint16Array));
      case 'bfloat16':
        return bfloat16ToFloat32(aligned(this.bytes(), Uint16Array));
      default:
        return Float32Array.from(this.toNumbers());
    }
  }

  /** All elements as numbers. int64 beyond 2^53 loses its low bits, as slice ends of "infinity" may. */
  toNumbers(): number[] {
    const bytes = this.bytes();
    switch (this.dtype) {
      case 'float32':
      case 'float16':
      case 'bfloat16':
        return Array.from(this.toFloat32());
      case 'float64':
        return Array.from(aligned(bytes, Float64Array));
      case 'int64':
        return Array.from(aligned(bytes, BigInt64Array), Number);
      case 'uint64':
        return Array.from(aligned(bytes, BigUint64Array), Number);
      case 'int32':
        return Array.from(aligned(bytes, Int32Array));
      case 'uint32':
        return Array.from(aligned(bytes, Uint32Array));
      case 'int16':
        return Array.from(aligned(bytes, Int16Array));
      case 'uint16':
        return Array.from(aligned(bytes, Uint16Array));
      case 'int8':
        return Array.from(aligned(bytes, Int8Array));
      case 'uint8':
      case 'bool':
        return Array.from(bytes);
      case 'uint4':
      case 'int4': {
        const signed = this.dtype === 'int4';
        return Array.from({ length: this.size }, (_, i) => {
          const nibble = (bytes[i >> 1]! >> (4 * (i & 1))) & 15;
          return signed && nibble > 7 ? nibble - 16 : nibble;
        });
      }
      default:
        throw new AloraError(
          'model',
          'MODEL_DTYPE',
          `Elements of type ${this.dtype} cannot be read as numbers`,
          {
            fix: 'Use a model whose weights are float, integer or 4-bit.',
          },
        );
    }
  }
}

function toInt64(value: number): bigint {
  if (value >= 2 ** 63) return 2n ** 63n - 1n;
  if (value <= -(2 ** 63)) return -(2n ** 63n);
  return BigInt(Math.trunc(value));
}

function toUint64(value: number): bigint {
  if (value >= 2 ** 64) return 2n ** 64n - 1n;
  return BigInt.asUintN(64, BigInt(Math.trunc(value)));
}

function encodeNumbers(dtype: DType, values: ArrayLike<number>): Uint8Array {
  switch (dtype) {
    case 'float32':
      return bytesOf(Float32Array.from(values));
    case 'float64':
      return bytesOf(Float64Array.from(values));
    case 'float16':
      return bytesOf(float32ToFloat16(Float32Array.from(values)));
    case 'bfloat16':
      return bytesOf(float32ToBfloat16(Float32Array.from(values)));
    case 'int64':
      return bytesOf(BigInt64Array.from(values as ArrayLike<number> & Iterable<number>, toInt64));
    case 'uint64':
      return bytesOf(BigUint64Array.from(values as ArrayLike<number> & Iterable<number>, toUint64));
    case 'int32':
      return bytesOf(Int32Array.from(values));
    case 'uint32':
      return bytesOf(Uint32Array.from(values));
    case 'int16':
      return bytesOf(Int16Array.from(values));
    case 'uint16':
      return bytesOf(Uint16Array.from(values));
    case 'int8':
      return bytesOf(Int8Array.from(values));
    case 'uint8':
    case 'bool':
      return Uint8Array.from(values);
    case 'uint4':
    case 'int4': {
      const out = new Uint8Array(Math.ceil(values.length / 2));
      for (let i = 0; i < values.length; i++) out[i >> 1]! |= (values[i]! & 15) << (4 * (i & 1));
      return out;
    }
    default:
      throw new AloraError('model', 'MODEL_DTYPE', `A tensor of type ${dtype} cannot be made from numbers`, {
        fix: 'use the float32 file of the model',
      });
  }
}

function readExternal({ path, offset, length }: ExternalData): Uint8Array {
  const out = new Uint8Array(length);
  const file = openSync(path, 'r');
  try {
    for (let done = 0; done < length; ) {
      const read = readSync(file, out, done, length - done, offset + done);
      if (read === 0)
        throw new AloraError(
          'model',
          'MODEL_EXTERNAL_SHORT',
          'An external data file ends before its last tensor',
          {
            where: path,
            got: `${done} bytes at offset ${offset}`,
            allowed: `${length} bytes`,
            fix: 'Download the model again: its data file is cut short.',
          },
        );
      done += read;
    }
  } finally {
    closeSync(file);
  }
  return out;
}
