import { existsSync, readdirSync, statSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { readModelJson } from '../adapters/jsonFile.ts';
import type { ModelConfig } from '../adapters/module.ts';
import { AloraError, nearest } from '../errors.ts';

/** A model in Hugging Face / transformers.js layout, located but not read. */
export interface ModelDirectory {
  /** Holds config.json and the tokenizer. */
  readonly folder: string;
  /** Absolute path of the .onnx file. */
  readonly file: string;
  /** config.json; {} where there is none. */
  readonly config: ModelConfig;
}

/** Files in the order in which they are preferred: plain before cached, full precision before quantised. */
const stems = ['model', 'decoder_model', 'decoder_model_merged', 'decoder_with_past_model'];
const suffixes = ['', '_fp16', '_quantized', '_int8', '_uint8', '_q4', '_q4f16', '_bnb4'];
export const preferredFiles = suffixes.flatMap((suffix) => stems.map((stem) => `${stem}${suffix}.onnx`));
/** For generation a file with a key-value cache comes first. */
const preferredForGeneration = suffixes.flatMap((suffix) =>
  ['decoder_model_merged', 'model', 'decoder_model'].map((stem) => `${stem}${suffix}.onnx`),
);

/**
 * Finds the ONNX file of a model: `path` is a directory (config.json, tokenizer files, onnx/*.onnx) or an
 * .onnx file within one; `file` is relative to the directory.
 * Errors: MODEL_NOT_FOUND, MODEL_FILE_NOT_FOUND with what the directory holds, MODEL_CONFIG_BROKEN.
 */
export function findModel(
  path: string,
  options: { readonly file?: string; readonly purpose?: 'training' | 'generation' } = {},
): ModelDirectory {
  const root = resolve(path);
  if (!existsSync(root))
    throw new AloraError('model', 'MODEL_NOT_FOUND', 'There is no model at this path', {
      where: 'model.path',
      got: path,
      fix: 'Give a directory in transformers.js layout (config.json, tokenizer.json, onnx/model.onnx) or an .onnx file.',
    });
  if (statSync(root).isFile()) {
    if (!root.endsWith('.onnx'))
      throw new AloraError('model', 'MODEL_NOT_ONNX', 'The model is not an .onnx file', {
        where: 'model.path',
        got: path,
        fix: 'Export it to ONNX first, for example: optimum-cli export onnx --model <id> <dir>.',
      });
    const folder = basename(dirname(root)) === 'onnx' ? dirname(dirname(root)) : dirname(root);
    return { folder, file: root, config: readModelJson(folder) };
  }
  const files = ['onnx', '.'].flatMap((sub) => {
    const folder = join(root, sub);
    return existsSync(folder)
      ? readdirSync(folder)
          .filter((f) => f.endsWith('.onnx'))
          .sort()
          .map((f) => join(folder, f))
      : [];
  });
  const names = files.map((file) => relative(root, file));
  if (options.file !== undefined) {
    const file = join(root, options.file);
    if (!existsSync(file))
      throw new AloraError('model', 'MODEL_FILE_NOT_FOUND', 'The model directory has no such file', {
        where: 'model.file',
        got: options.file,
        allowed: names,
        didYouMean: nearest(options.file, names),
        fix: 'Name a file of the directory, or leave model.file out.',
      });
    return { folder: root, file, config: readModelJson(root) };
  }
  const order = options.purpose === 'generation' ? preferredForGeneration : preferredFiles;
  const best = order.flatMap((name) => files.filter((file) => basename(file) === name))[0] ?? files[0];
  if (!best)
    throw new AloraError('model', 'MODEL_FILE_NOT_FOUND', 'The model directory holds no .onnx file', {
      where: root,
      allowed: `one of ${preferredFiles.slice(0, 4).join(', ')}, in the directory or in its folder onnx/`,
      fix: 'Export the model to ONNX, or point model.path at the directory that holds the files.',
    });
  return { folder: root, file: best, config: readModelJson(root) };
}

/** generation_config.json; {} where there is none. Errors: MODEL_CONFIG_BROKEN. */
export const generationConfig = (folder: string): ModelConfig =>
  readModelJson(folder, 'generation_config.json');
