import { closeSync, openSync, readSync } from 'node:fs';

const unpack = 'Unpack it, and name the .onnx file that was in it.';
const downloadAgain = 'Download the file again.';

/** What files that are mistaken for models begin with. */
const otherFormats: readonly (readonly [beginning: string, what: string, fix: string])[] = [
  ['', 'an empty file', downloadAgain],
  ['version https://git-lfs', 'a Git LFS pointer', 'Run git lfs pull, or download the file itself.'],
  ['PK\x03\x04', 'a ZIP archive (PyTorch checkpoints are such)', unpack],
  ['\x1f\x8b', 'a gzip archive', unpack],
  ['\x28\xb5\x2f\xfd', 'a Zstandard archive', unpack],
  ['\x89HDF', 'an HDF5 file', 'Export the model to ONNX.'],
  ['GGUF', 'a GGUF file', 'Export the original model to ONNX.'],
  ['<', 'a page of HTML or XML', downloadAgain],
  ['{', 'JSON', downloadAgain],
];

/** What a file that is no ONNX model is, by its beginning; undefined where that says nothing. */
export function otherFormat(path: string): { readonly what: string; readonly fix: string } | undefined {
  const beginning = Buffer.alloc(32);
  const file = openSync(path, 'r');
  const length = readSync(file, beginning);
  closeSync(file);
  const text = beginning.toString('latin1', 0, length);
  const known = otherFormats.find(([start]) => (start === '' ? text === '' : text.startsWith(start)));
  return known && { what: known[1], fix: known[2] };
}
