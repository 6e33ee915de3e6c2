import { existsSync, readFileSync, statSync } from 'node:fs';
import { writeFileAtomic } from '../atomicFiles.ts';
import { AloraError } from '../errors.ts';
import type { DType } from '../onnx/dtype.ts';
import { byteLength } from '../onnx/dtype.ts';
import { Tensor } from '../onnx/tensor.ts';

/** A .safetensors file: 8 bytes of header length (little endian), a JSON header, then the tensors' bytes. */
export interface SafeTensors {
  /** In the header's order. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly metadata: ReadonlyMap<string, string>;
}

const dtypes: Readonly<Record<string, DType>> = {
  F64: 'float64',
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  I64: 'int64',
  I32: 'int32',
  I16: 'int16',
  I8: 'int8',
  U64: 'uint64',
  U32: 'uint32',
  U16: 'uint16',
  U8: 'uint8',
  BOOL: 'bool',
};
const names = new Map(Object.entries(dtypes).map(([name, dtype]) => [dtype, name]));

/** The reference implementation's limit on the JSON header. */
const largestHeader = 100_000_000;

function damaged(path: string, got: string, cause?: unknown): AloraError {
  return new AloraError('model', 'MODEL_SAFETENSORS', 'The file is not a whole .safetensors file', {
    where: path,
    got,
    fix: 'Copy, download or save it again; a Git LFS pointer or a cut download looks like this.',
    ...(cause === undefined ? {} : { cause }),
  });
}

/** Reads a .safetensors file. Errors: kind model for a missing, cut or otherwise damaged file. */
export function readSafetensors(path: string): SafeTensors {
  if (!existsSync(path) || !statSync(path).isFile())
    throw new AloraError('model', 'MODEL_NOT_FOUND', 'There is no .safetensors file at this path', {
      where: path,
      fix: 'Give the path of a file that save_pretrained or onnx-alora wrote.',
    });
  const bytes = readFileSync(path);
  if (bytes.byteLength < 8) throw damaged(path, `${bytes.byteLength} bytes`);
  const length = Number(bytes.readBigUInt64LE(0));
  if (length > largestHeader || 8 + length > bytes.byteLength)
    throw damaged(path, `a header of ${length} bytes in a file of ${bytes.byteLength}`);
  const header = parseHeader(path, bytes.subarray(8, 8 + length));
  const data = bytes.subarray(8 + length);
  const metadata = new Map<string, string>();
  const tensors = new Map<string, Tensor>();
  const spans: { begin: number; end: number; name: string }[] = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') {
      for (const [key, value] of Object.entries(entry ?? {})) metadata.set(key, String(value));
      continue;
    }
    const { dtype, dims, begin, end } = parseEntry(path, name, entry, data.byteLength);
    spans.push({ begin, end, name });
    tensors.set(name, new Tensor(dtype, dims, data.subarray(begin, end)));
  }
  checkSpans(path, spans, data.byteLength);
  return { tensors, metadata };
}

function parseHeader(path: string, bytes: Uint8Array): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw damaged(path, 'a header that is not JSON', cause);
  }
  if (typeof header !== 'object' || header === null || Array.isArray(header))
    throw damaged(path, 'a header that is not a JSON object');
  return header as Record<string, unknown>;
}

function parseEntry(path: string, name: string, entry: unknown, size: number) {
  const { dtype: code, shape, data_offsets: offsets } = (entry ?? {}) as Record<string, unknown>;
  const dtype = typeof code === 'string' && Object.hasOwn(dtypes, code) ? dtypes[code] : undefined;
  if (!dtype)
    throw new AloraError('model', 'MODEL_SAFETENSORS', 'The file holds a tensor of a type that is not read', {
      where: path,
      got: `tensor '${name}' of type ${String(code)}`,
      allowed: Object.keys(dtypes),
      fix: 'Save the adapter in float32, float16 or bfloat16.',
    });
  const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  if (!Array.isArray(shape) || !shape.every(isCount))
    throw damaged(path, `tensor '${name}' of shape ${JSON.stringify(shape)}`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount))
    throw damaged(path, `tensor '${name}' at offsets ${JSON.stringify(offsets)}`);
  const [begin, end] = offsets as [number, number];
  const bytes = byteLength(
    dtype,
    shape.reduce((product, dim) => product * dim, 1),
  );
  if (begin > end || end > size || end - begin !== bytes)
    throw damaged(path, `tensor '${name}' at bytes ${begin} to ${end} of ${size}, which needs ${bytes}`);
  return { dtype, dims: shape, begin, end };
}

/** Tensors must fill the data without holes and without overlap, as the format demands. */
function checkSpans(
  path: string,
  spans: readonly { begin: number; end: number; name: string }[],
  size: number,
): void {
  let at = 0;
  for (const { begin, end, name } of [...spans].sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== at) throw damaged(path, `tensor '${name}' begins at byte ${begin} instead of ${at}`);
    at = end;
  }
  if (at !== size) throw damaged(path, `${size} bytes of data, of which tensors use ${at}`);
}

/** Writes a .safetensors file atomically, tensors in the given order; the data begins 8-byte aligned. */
export function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, Tensor>,
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): void {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let at = 0;
  for (const [name, tensor] of tensors) {
    const dtype = names.get(tensor.dtype);
    if (!dtype) throw new RangeError(`safetensors has no type for ${tensor.dtype} (${name})`);
    header[name] = { dtype, shape: tensor.dims, data_offsets: [at, at + tensor.byteLength] };
    at += tensor.byteLength;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const padded = Buffer.alloc(8 + Math.ceil(text.byteLength / 8) * 8, ' ');
  padded.writeBigUInt64LE(BigInt(padded.byteLength - 8), 0);
  padded.set(text, 8);
  const pieces = function* () {
    yield padded;
    for (const tensor of tensors.values()) yield tensor.bytes();
  };
  writeFileAtomic(path, pieces());
}
