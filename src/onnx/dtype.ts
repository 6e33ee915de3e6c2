/** Element types by their ONNX TensorProto.DataType number. */
const byCode = {
  1: 'float32',
  2: 'uint8',
  3: 'int8',
  4: 'uint16',
  5: 'int16',
  6: 'int32',
  7: 'int64',
  8: 'string',
  9: 'bool',
  10: 'float16',
  11: 'float64',
  12: 'uint32',
  13: 'uint64',
  14: 'complex64',
  15: 'complex128',
  16: 'bfloat16',
  17: 'float8e4m3fn',
  18: 'float8e4m3fnuz',
  19: 'float8e5m2',
  20: 'float8e5m2fnuz',
  21: 'uint4',
  22: 'int4',
} as const;

export type DType = (typeof byCode)[keyof typeof byCode];

const codes = new Map<DType, number>(
  Object.entries(byCode).map(([code, dtype]) => [dtype, Number(code)] as const),
);

/** The element type of a TensorProto.DataType number; undefined for numbers that ONNX 1.17 does not know. */
export function dtypeOf(code: number): DType | undefined {
  return (byCode as Record<number, DType>)[code];
}

export function codeOf(dtype: DType): number {
  return codes.get(dtype)!;
}

const bitsOf: Record<DType, number> = {
  float32: 32,
  uint8: 8,
  int8: 8,
  uint16: 16,
  int16: 16,
  int32: 32,
  int64: 64,
  string: 0,
  bool: 8,
  float16: 16,
  float64: 64,
  uint32: 32,
  uint64: 64,
  complex64: 64,
  complex128: 128,
  bfloat16: 16,
  float8e4m3fn: 8,
  float8e4m3fnuz: 8,
  float8e5m2: 8,
  float8e5m2fnuz: 8,
  uint4: 4,
  int4: 4,
};

/** Bytes that `count` elements take when stored raw; 4-bit elements are packed two to a byte. */
export function byteLength(dtype: DType, count: number): number {
  return Math.ceil((bitsOf[dtype] * count) / 8);
}

export function isFloat(dtype: DType): boolean {
  return dtype === 'float32' || dtype === 'float16' || dtype === 'float64' || dtype === 'bfloat16';
}
