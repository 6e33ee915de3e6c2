import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve, sep } from 'node:path';
import { writeJson } from '../atomicFiles.ts';
import { AloraError } from '../errors.ts';
import { decodeModel } from '../onnx/decode.ts';
import { writeModel } from '../onnx/encode.ts';
import { liesBelow } from '../onnx/tensor.ts';
import { rightModel } from './adapterMismatch.ts';
import { readModelJson } from './jsonFile.ts';
import { branchesOf } from './mergeBranch.ts';
import { planFiles } from './mergeFiles.ts';
import { patchesOf, uniquePatches } from './mergePlan.ts';
import { requantisedOf } from './mergeRequantise.ts';
import { copyPatched } from './mergeWrite.ts';
import type { ModelConfig } from './module.ts';
import {
  appendClassifier,
  classifierConfig,
  encoderOutput,
  givesTokens,
  type NewClassifier,
  newClassifierOf,
  poolingFor,
} from './newClassifier.ts';
import { fusedNames } from './packing.ts';
import type { PeftAdapter } from './peft.ts';

export interface MergeOptions {
  /** Merge only these .onnx files (paths within the model folder) and leave the other .onnx files out. */
  readonly files?: readonly string[];
  /** How a classifier that the model has no place for reads the encoder; default: as it was trained, else the mean. */
  readonly pooling?: 'cls' | 'mean';
  /** Fold the adapter into quantised weights too and quantise the sums again (see requantisedOf). */
  readonly requantise?: boolean;
}

/** What merging made of each file of a model. */
export interface MergeResult {
  readonly folder: string;
  /** .onnx files whose weights changed, by path within the folder, and the tensors that did. */
  readonly merged: readonly { readonly file: string; readonly tensors: readonly string[] }[];
  /** .onnx files of quantised weights, which stay: the adapter is a branch beside those of `modules`. */
  readonly branched: readonly { readonly file: string; readonly modules: readonly string[] }[];
  /** .onnx files of quantised weights that were changed and quantised again. */
  readonly requantised: readonly { readonly file: string; readonly modules: readonly string[] }[];
  /** A classifier that was appended to an encoder, and to which files. */
  readonly classifier?: {
    readonly name: string;
    readonly classes: number;
    readonly files: readonly string[];
  };
  /** .onnx files that hold none of the adapter's modules; copied as they are. */
  readonly untouched: readonly string[];
  /** Files that are not in the result: the original weights of other frameworks, and .onnx files not asked for. */
  readonly leftOut: readonly string[];
  /** Modules that were merged, heads included, in the adapter's order. */
  readonly modules: readonly string[];
  /** Files that did not become what was asked for, a sentence each. */
  readonly warnings: readonly string[];
}

/** Weights of other frameworks: beside a merged model they would be the unmerged ones. */
const otherFrameworks =
  /(\.safetensors|\.safetensors\.index\.json|\.h5|\.msgpack|\.gguf|\.pth?|\.ot|pytorch_model.*)$/;

/**
 * Folds an adapter into every ONNX file of a model folder that holds its weights: W += s A^T diag(g) B in
 * place, in the file's own layout and type (float32, float16, bfloat16), and modulesToSave as they are. Every
 * other byte of the files stays. A file whose weights are quantised keeps them and gets the adapter as a branch
 * beside each (see branchesOf). A classifier for an encoder without one is appended: the file then gives `logits` too,
 * and config.json names the class and its labels. All checks come before the first write; the new folder appears whole, and
 * the model's folder is only read. `model` is a folder in Hugging Face layout, or an .onnx file.
 *
 * Errors: kind storage for an output folder that exists or cannot be written; kind model for modules that no
 * file holds, shapes that differ, float weights that another part of the model shares.
 */
export function mergeAdapter(
  adapter: PeftAdapter,
  model: string,
  out: string,
  options: MergeOptions = {},
): MergeResult {
  const { root, files } = filesOf(model);
  refuseOutput(root, out);
  const onnx = files.filter((file) => file.endsWith('.onnx'));
  const chosen = options.files ? options.files.map((file) => chosenFile(root, onnx, file)) : onnx;
  const config = readModelJson(root);
  const plan = planFiles(chosen, {
    branch: (file) => branchesOf(root, file, config, adapter),
    requantise: options.requantise ? (file) => requantisedOf(root, file, config, adapter) : undefined,
    patch: (file) => patchesOf(root, file, config, adapter),
  });
  const { patches, warnings } = plan;
  const branched = [...plan.branched, ...plan.requantised];
  const keys = new Set([
    ...patches.flatMap((entry) => entry.patches.map((patch) => patch.key)),
    ...branched.flatMap((entry) => entry.keys),
  ]);
  const appended = classifierFor(
    adapter,
    keys,
    root,
    chosen.filter((file) => !plan.leftOut.includes(file)),
  );
  if (appended) for (const part of ['weight', 'bias']) keys.add(`${appended.head.name}.${part}`);
  refuseUnplaced(adapter, keys, model);
  const skipped = new Set(files.filter((file) => otherFrameworks.test(basename(file))));
  for (const file of onnx) if (!chosen.includes(file) || plan.leftOut.includes(file)) skipped.add(file);
  copyPatched(
    root,
    files.filter((file) => !skipped.has(file)),
    uniquePatches(patches.flatMap((entry) => entry.patches)),
    new Map(branched.map((entry) => [entry.file, entry.model])),
    out,
    appended && ((folder) => append(appended, folder, config, adapter, options.pooling)),
  );
  const placed = new Set([
    ...patches.flatMap((entry) => entry.patches.map((patch) => patch.module)),
    ...branched.flatMap((entry) => entry.modules),
    ...(appended ? [appended.head.name] : []),
  ]);
  return {
    folder: out,
    merged: patches
      .filter((entry) => entry.patches.length > 0)
      .map((entry) => ({ file: entry.file, tensors: entry.patches.map((patch) => patch.tensor) })),
    branched: plan.branched.map(({ file, modules }) => ({ file, modules })),
    requantised: plan.requantised.map(({ file, modules }) => ({ file, modules })),
    ...(appended
      ? {
          classifier: {
            name: appended.head.name,
            classes: appended.head.weight.dims[0]!,
            files: appended.files,
          },
        }
      : {}),
    untouched: patches.filter((entry) => entry.patches.length === 0).map((entry) => entry.file),
    leftOut: [...skipped],
    modules: [...placed],
    warnings,
  };
}

interface Appended {
  readonly head: NewClassifier;
  readonly files: readonly string[];
}

/** The classifier that has no place in the model, and the files of encoders that can get it. */
function classifierFor(
  adapter: PeftAdapter,
  placed: ReadonlySet<string>,
  root: string,
  files: readonly string[],
): Appended | undefined {
  const head = newClassifierOf(adapter, (key) => placed.has(key));
  if (!head) return undefined;
  const encoders = files.filter((file) => {
    const path = join(root, file);
    const output = encoderOutput(decodeModel(readFileSync(path), path));
    const width = output?.shape?.at(-1);
    return output && (typeof width !== 'number' || width === head.weight.dims[1]);
  });
  return encoders.length > 0 ? { head, files: encoders } : undefined;
}

function append(
  { head, files }: Appended,
  folder: string,
  config: ModelConfig,
  { classifier }: PeftAdapter,
  pooling: MergeOptions['pooling'],
): void {
  let task: 'SequenceClassification' | 'TokenClassification' = 'SequenceClassification';
  for (const file of files) {
    const path = join(folder, file);
    const model = decodeModel(readFileSync(path), path);
    const output = encoderOutput(model)!;
    const how = poolingFor(output, pooling ?? classifier?.pooling);
    if (givesTokens(output, how)) task = 'TokenClassification';
    appendClassifier(model, head, how);
    writeModel(model, path);
  }
  const classes = head.weight.dims[0]!;
  writeJson(join(folder, 'config.json'), classifierConfig(config, classes, classifier?.labels, task));
}

/** All files of the model, relative to its folder. Hidden files and folders (.git, .cache) are not part of it. */
function filesOf(model: string): { root: string; files: string[] } {
  if (!existsSync(model))
    throw new AloraError('model', 'MODEL_NOT_FOUND', 'There is no model at this path', {
      where: 'model.path',
      got: model,
      fix: 'Give a model folder in Hugging Face layout, or an .onnx file.',
    });
  const path = resolve(model);
  if (statSync(path).isDirectory()) return { root: path, files: listed(path, '') };
  const root = [dirname(path), dirname(dirname(path))].find((folder) =>
    existsSync(join(folder, 'config.json')),
  );
  if (root) return { root, files: listed(root, '') };
  const folder = dirname(path);
  const data = readdirSync(folder).filter((name) => name.startsWith(`${basename(path)}_data`));
  return { root: folder, files: [basename(path), ...data] };
}

/** Links that lead nowhere, or back to a folder that they stand in, are not part of it either. */
function listed(root: string, folder: string, above: readonly string[] = []): string[] {
  const real = realpathSync(join(root, folder));
  if (above.includes(real)) return [];
  return readdirSync(real)
    .filter((name) => !name.startsWith('.'))
    .sort()
    .flatMap((name) => {
      const path = folder === '' ? name : `${folder}/${name}`;
      if (!existsSync(join(root, path))) return [];
      return statSync(join(root, path)).isDirectory() ? listed(root, path, [...above, real]) : [path];
    });
}

function chosenFile(root: string, onnx: readonly string[], file: string): string {
  const path = file.split(sep).join('/').replace(/^\.\//, '');
  if (onnx.includes(path)) return path;
  throw new AloraError('model', 'MODEL_NOT_FOUND', 'The model folder has no such .onnx file', {
    where: root,
    got: file,
    allowed: onnx,
    fix: 'name one of its .onnx files, or leave the file out for all of them',
  });
}

function refuseOutput(root: string, out: string): void {
  const path = resolve(out);
  const refuse = (message: string) =>
    new AloraError('storage', 'OUTPUT_EXISTS', message, {
      where: out,
      fix: 'Choose a new folder for the merged model.',
    });
  if (path === root || liesBelow(root, path))
    throw refuse("The output folder lies inside the model's own folder");
  if (!existsSync(path)) return;
  if (!statSync(path).isDirectory()) throw refuse('The output is a file');
  if (readdirSync(path).length > 0) throw refuse('The output folder is not empty');
}

function refuseUnplaced(adapter: PeftAdapter, placed: ReadonlySet<string>, model: string): void {
  const found = (key: string) => [key, ...fusedNames(key)].some((name) => placed.has(name));
  const missing = [...adapter.modules.keys(), ...adapter.saved.keys()].filter(
    (key) => !found(key) && adapter.modules.get(key)?.rank !== 0,
  );
  if (missing.length === 0) return;
  throw new AloraError(
    'model',
    'MODEL_MERGE_NO_PLACE',
    'The model does not hold every module of the adapter',
    {
      where: adapter.folder,
      got: `${missing.slice(0, 4).join(', ')}${missing.length > 4 ? ` and ${missing.length - 4} more` : ''}: in no file of ${model}`,
      fix: rightModel(adapter),
    },
  );
}
