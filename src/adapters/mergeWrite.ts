import {
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  fsyncSync,
  openSync,
  readSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { makeFolder, replaceFolder } from '../atomicFiles.ts';
import { AloraError } from '../errors.ts';
import { byteLength } from '../onnx/dtype.ts';
import { writeModel } from '../onnx/encode.ts';
import type { Graph, Model } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import type { Patch } from './mergePlan.ts';
import type { LowRankWeights } from './peft.ts';

/**
 * Copies files into a new folder, rewrites the patched tensors there and writes the given models in the place of
 * their files; `finish` may change the copies; the folder appears whole.
 */
export function copyPatched(
  root: string,
  files: readonly string[],
  patches: readonly Patch[],
  models: ReadonlyMap<string, Model>,
  out: string,
  finish: (folder: string) => void = () => {},
): void {
  replaceFolder(out, (partial) => {
    for (const file of files) {
      const target = join(partial, file);
      makeFolder(dirname(target));
      const model = models.get(file);
      if (model) {
        referTo(model.graph, root, partial);
        writeModel(model, target);
        continue;
      }
      copyFileSync(join(root, file), target, constants.COPYFILE_FICLONE);
      // The copy of a read-only file is read-only as well.
      chmodSync(target, statSync(target).mode | 0o200);
      const own = patches.filter((patch) => patch.file === file);
      if (own.length > 0) patchFile(target, own);
    }
    finish(partial);
  });
}

/** External data is copied along with the model: its tensors are those of the copy. */
function referTo(graph: Graph, root: string, folder: string): void {
  for (const value of graph.initializers) {
    const { dtype, dims, source } = value.initializer!;
    if (source instanceof Uint8Array || source.embedded) continue;
    const path = join(folder, relative(root, source.path));
    value.initializer = new Tensor(dtype, dims, { ...source, path });
  }
  for (const node of graph.nodes) for (const inner of node.subgraphs()) referTo(inner, root, folder);
}

function patchFile(path: string, patches: readonly Patch[]): void {
  const file = openSync(path, 'r+');
  try {
    for (const patch of patches) {
      const bytes = new Uint8Array(byteLength(patch.dtype, count(patch.dims)));
      transfer(bytes.byteLength, (done) =>
        readSync(file, bytes, done, bytes.byteLength - done, patch.offset + done),
      );
      const changed = patched(patch, bytes);
      transfer(changed.byteLength, (done) =>
        writeSync(file, changed, done, changed.byteLength - done, patch.offset + done),
      );
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

function transfer(length: number, step: (done: number) => number): void {
  for (let done = 0; done < length; ) {
    const moved = step(done);
    if (moved === 0) throw new RangeError('the copied file is shorter than its tensors');
    done += moved;
  }
}

const count = (dims: readonly number[]) => dims.reduce((product, dim) => product * dim, 1);

/** The tensor's new bytes. Sums are in float64 and rounded once to the tensor's type. */
function patched(patch: Patch, bytes: Uint8Array): Uint8Array {
  const { dtype, dims, change } = patch;
  const values =
    change.kind === 'set'
      ? change.values
      : withProduct(new Tensor(dtype, dims, bytes).toFloat32(), change.weights, change.layout);
  const tensor = Tensor.of(dtype, values, dims);
  if (!tensor.toFloat32().every(Number.isFinite))
    throw new AloraError('model', 'MODEL_MERGE_OVERFLOW', `A merged weight does not fit ${dtype}`, {
      where: `${patch.file}, ${patch.module}`,
      fix: 'Merge into the float32 file.',
    });
  return tensor.bytes();
}

/** W + s A^T diag(g) B, row by row of W as it is stored: [in, out], or [out, in]. */
export function withProduct(
  weight: Float32Array,
  { rank, in: width, out, scale, A, B, gate }: LowRankWeights,
  layout: 'in-out' | 'out-in',
): Float64Array {
  const [rows, columns, left, right] = layout === 'in-out' ? [width, out, A, B] : [out, width, B, A];
  const result = Float64Array.from(weight);
  for (let row = 0; row < rows; row++) {
    const start = row * columns;
    for (let r = 0; r < rank; r++) {
      const factor = scale * gate[r]! * left[r * rows + row]!;
      if (factor === 0) continue;
      const from = r * columns;
      for (let j = 0; j < columns; j++) result[start + j]! += factor * right[from + j]!;
    }
  }
  return result;
}
