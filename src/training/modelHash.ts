import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { readModel } from '../onnx/decode.ts';
import type { Graph } from '../onnx/graph.ts';
import { readsEncoder } from '../passes/joinEncoder.ts';
import { encoderFile } from '../runtime/backbone.ts';
import type { ModelDirectory } from '../runtime/modelDirectory.ts';
import { hashFile } from '../tasks/files.ts';

/** Pieces of a large data file that count, and their length in bytes. */
const pieces = 64;
const pieceLength = 2 ** 18;

/**
 * Identity of a model: sha256 of its .onnx file; where there are more files, external data or the encoder of an
 * encoder-decoder, over those as well. Of a data file above 16 MB its size and 64 pieces count, spread evenly: training
 * moves weights everywhere.
 */
export async function modelHash(directory: ModelDirectory): Promise<string> {
  const model = readModel(directory.file);
  const encoder = readsEncoder(model) ? encoderFile(directory) : undefined;
  const data = new Set(
    [model, ...(encoder ? [readModel(encoder)] : [])].flatMap(({ graph }) => dataFiles(graph)),
  );
  const own = await hashFile(directory.file);
  if (!encoder && data.size === 0) return own;
  const hash = createHash('sha256').update(own);
  if (encoder) hash.update(await hashFile(encoder));
  for (const path of [...data].sort()) hash.update(await hashPieces(path));
  return hash.digest('hex');
}

/** Paths of the external data that a graph refers to. */
function dataFiles(graph: Graph): string[] {
  const own = [...graph.initializers].flatMap(({ initializer }) => {
    const source = initializer!.source;
    return source instanceof Uint8Array || source.embedded ? [] : [source.path];
  });
  return [...own, ...graph.nodes.flatMap((node) => node.subgraphs().flatMap(dataFiles))];
}

async function hashPieces(path: string): Promise<string> {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    if (size <= pieces * pieceLength) return await hashFile(path);
    const hash = createHash('sha256').update(`${size}`);
    const piece = Buffer.alloc(pieceLength);
    for (let i = 0; i < pieces; i++) {
      const at = Math.floor((i * (size - pieceLength)) / (pieces - 1));
      const { bytesRead } = await file.read(piece, 0, pieceLength, at);
      hash.update(piece.subarray(0, bytesRead));
    }
    return hash.digest('hex');
  } finally {
    await file.close();
  }
}
