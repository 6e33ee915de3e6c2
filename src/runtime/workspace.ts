import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeModel, writeTensors } from '../onnx/encode.ts';
import type { Graph, Model } from '../onnx/graph.ts';

/** Weights below this many bytes stay inside the graph files. */
const smallWeight = 1024;

/**
 * A folder, private unless one is given, for the graphs of one run. The weights are written there once, as they are after all
 * conversions, and every session maps the same file: weights live once, whatever the number of graphs.
 */
export interface Workspace {
  readonly folder: string;
  /** Moves the weights of a graph to the shared file; graphs cloned from it later refer to them there. */
  shareWeights(graph: Graph): void;
  /** Writes a graph file and returns its path. */
  write(name: string, model: Model): string;
  close(): void;
}

/** Without `folder`, a temporary one that goes when the workspace is closed or the process ends. */
export function openWorkspace(options: { readonly folder?: string } = {}): Workspace {
  const folder = options.folder ?? mkdtempSync(join(tmpdir(), 'onnx-alora-'));
  // A temporary folder is gone with the process: nothing in it needs to be flushed to the disk.
  const kept = { flush: options.folder !== undefined };
  let files = 0;
  const close = () => {
    process.removeListener('exit', close);
    if (options.folder === undefined) rmSync(folder, { recursive: true, force: true });
  };
  process.once('exit', close);
  return {
    folder,
    shareWeights(graph) {
      const large = [...graph.initializers].filter((value) => value.initializer!.byteLength >= smallWeight);
      const moved = writeTensors(
        large.map((value) => value.initializer!),
        join(folder, `weights-${files++}.bin`),
        kept,
      );
      large.forEach((value, i) => {
        value.initializer = moved[i]!;
      });
    },
    write(name, model) {
      const path = join(folder, `${name}.onnx`);
      writeModel(model, path, kept);
      return path;
    },
    close,
  };
}
