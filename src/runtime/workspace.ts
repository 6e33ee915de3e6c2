import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { AloraError } from '../errors.ts';
import { writeModel, writeTensors } from '../onnx/encode.ts';
import type { Graph, Model } from '../onnx/graph.ts';
import type { Tensor } from '../onnx/tensor.ts';

/** Weights below this many bytes stay inside the graph files. */
const smallWeight = 1024;

/**
 * A folder, private unless one is given, for the graphs of one run. The weights are written there once, as they are after all
 * conversions, and every session maps the same file: weights live once, whatever the number of graphs.
 */
export interface Workspace {
  readonly folder: string;
  /**
   * Moves the weights of graphs to a shared file, a tensor that several read once; graphs cloned from them later refer
   * to it there.
   */
  shareWeights(...graphs: readonly Graph[]): void;
  /** Writes tensors to a file of their own and returns them as they lie there. */
  store(tensors: readonly Tensor[]): Tensor[];
  /** Writes a graph file and returns its path. */
  write(name: string, model: Model): string;
  close(): void;
}

/** Temporary folders of this process, which go with it. */
const temporary = new Set<string>();

function removeTemporary(): void {
  for (const folder of temporary) rmSync(folder, { recursive: true, force: true });
  temporary.clear();
}

/** Names say whose a folder is: a process that is killed cannot remove its own. */
const namePrefix = `onnx-alora-${hostname()}-`;

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

/** Removes what killed processes of this machine left: as many bytes as their models. */
function removeAbandoned(): void {
  for (const name of attempt(() => readdirSync(tmpdir())) ?? []) {
    const pid = name.startsWith(namePrefix) ? Number(name.slice(namePrefix.length).split('-')[0]) : 0;
    if (pid > 0 && !isAlive(pid))
      attempt(() => rmSync(join(tmpdir(), name), { recursive: true, force: true }));
  }
}

/** undefined where it fails: what another user left stays. */
function attempt<Result>(act: () => Result): Result | undefined {
  try {
    return act();
  } catch {
    return undefined;
  }
}

let begun = false;
function temporaryFolder(): string {
  if (!begun) {
    begun = true;
    process.once('exit', removeTemporary);
    removeAbandoned();
  }
  try {
    const folder = mkdtempSync(join(tmpdir(), `${namePrefix}${process.pid}-`));
    temporary.add(folder);
    return folder;
  } catch (cause) {
    throw new AloraError('storage', 'STORAGE_TEMPORARY', 'No temporary folder can be made', {
      where: tmpdir(),
      got: (cause as Error).message,
      fix: 'Set TMPDIR (TEMP on Windows) to a folder that can be written, with room for the weights of the model.',
      cause,
    });
  }
}

/** A write to the temporary folder that failed: the output is not at fault. */
function temporaryIsFull(path: string, cause: unknown): unknown {
  if (!(cause instanceof AloraError) || cause.kind !== 'storage') return cause;
  return new AloraError('storage', cause.code, cause.message, {
    ...cause.details,
    where: path,
    fix: 'Free space there, or set TMPDIR (TEMP on Windows) to a folder with room for the weights of the model.',
  });
}

/** Without `folder`, a temporary one that goes when the workspace is closed or the process ends. */
export function openWorkspace(options: { readonly folder?: string } = {}): Workspace {
  const folder = options.folder ?? temporaryFolder();
  // A temporary folder is gone with the process: nothing in it needs to be flushed to the disk.
  const kept = { flush: options.folder !== undefined };
  let files = 0;
  const store = (tensors: readonly Tensor[]) => {
    const path = join(folder, `weights-${files++}.bin`);
    try {
      return writeTensors(tensors, path, kept);
    } catch (cause) {
      throw options.folder === undefined ? temporaryIsFull(path, cause) : cause;
    }
  };
  return {
    folder,
    store,
    shareWeights(...graphs) {
      const large = graphs.flatMap((graph) =>
        [...graph.initializers].filter((value) => value.initializer!.byteLength >= smallWeight),
      );
      const tensors = [...new Set(large.map((value) => value.initializer!))];
      const written = store(tensors);
      const moved = new Map(tensors.map((tensor, i) => [tensor, written[i]!]));
      for (const value of large) value.initializer = moved.get(value.initializer!)!;
    },
    write(name, model) {
      const path = join(folder, `${name}.onnx`);
      writeModel(model, path, kept);
      return path;
    },
    close() {
      if (temporary.delete(folder)) rmSync(folder, { recursive: true, force: true });
    },
  };
}
