import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { recoverFolder } from '../atomicFiles.ts';
import { AloraError } from '../errors.ts';
import type { Tensor } from '../onnx/tensor.ts';
import { damagedAdapter, readAdapterJson } from './jsonFile.ts';
import { type ClassifierNotes, readClassifierNotes } from './newClassifier.ts';
import { readSafetensors } from './safetensors.ts';

/** The adapter of one module: delta = scale * (x A^T diag(gate)) B, rank-major as the arena keeps it. */
export interface LowRankWeights {
  readonly rank: number;
  readonly in: number;
  readonly out: number;
  /** s; PEFT's alpha / r. */
  readonly scale: number;
  /** [rank, in]: PEFT's lora_A. */
  readonly A: Float32Array;
  /** [rank, out]: PEFT's lora_B, transposed. */
  readonly B: Float32Array;
  /** [rank]: PEFT's lora_E (AdaLoRA); ones for LoRA. */
  readonly gate: Float32Array;
}

/** An adapter in PEFT's terms. */
export interface PeftAdapter {
  /** Where it was read. */
  readonly folder?: string;
  /** By module name, without `base_model.model.`. */
  readonly modules: ReadonlyMap<string, LowRankWeights>;
  /** modules_to_save: tensors by full name (`classifier.weight` [out, in], `classifier.bias`), as torch has them. */
  readonly saved: ReadonlyMap<string, Tensor>;
  readonly modulesToSave: readonly string[];
  /** base_model_name_or_path. */
  readonly baseModel: string | null;
  /** CAUSAL_LM, SEQ_CLS, ... */
  readonly taskType: string | null;
  readonly fanInFanOut: boolean;
  /** Where it brings a classifier for an encoder without one, and we trained it. */
  readonly classifier?: ClassifierNotes;
}

export interface LoadedPeftAdapter extends PeftAdapter {
  /** Where it was read. */
  readonly folder: string;
  readonly peftType: 'LORA' | 'ADALORA';
  /** adapter_config.json as it stands. */
  readonly config: Readonly<Record<string, unknown>>;
}

export const configFile = 'adapter_config.json';
export const weightsFile = 'adapter_model.safetensors';

/**
 * Reads an adapter folder in PEFT format, LORA or ADALORA, with rank_pattern, alpha_pattern, use_rslora and
 * modules_to_save. Errors, all of kind model: MODEL_ADAPTER_NOT_FOUND, MODEL_ADAPTER_UNSUPPORTED (what would
 * change the function in a way that we do not compute), MODEL_ADAPTER_DAMAGED (config and tensors disagree).
 */
export function readPeft(folder: string): LoadedPeftAdapter {
  recoverFolder(folder);
  const config = readConfig(folder);
  const peftType = config.peft_type as 'LORA' | 'ADALORA';
  refuseUnsupported(folder, config);
  const path = join(folder, weightsFile);
  if (!existsSync(path))
    throw new AloraError('model', 'MODEL_ADAPTER_NOT_FOUND', `The adapter folder has no ${weightsFile}`, {
      where: folder,
      fix: existsSync(join(folder, 'adapter_model.bin'))
        ? 'Save the adapter again with save_pretrained, which writes safetensors; .bin files are not read.'
        : 'Give a folder that PEFT or onnx-alora saved whole.',
    });
  const { factors, saved } = sortTensors(
    path,
    readSafetensors(path).tensors,
    namesIn(config.modules_to_save),
  );
  const modules = new Map<string, LowRankWeights>();
  for (const [name, parts] of factors) modules.set(name, moduleOf(folder, config, name, parts));
  if (modules.size === 0) throw damagedAdapter(path, 'no lora_A and lora_B tensors');
  const text = (value: unknown) => (typeof value === 'string' ? value : null);
  return {
    folder,
    modules,
    saved,
    modulesToSave: namesIn(config.modules_to_save),
    baseModel: text(config.base_model_name_or_path),
    taskType: text(config.task_type),
    fanInFanOut: config.fan_in_fan_out === true,
    peftType,
    config,
    classifier: readClassifierNotes(folder),
  };
}

function readConfig(folder: string): Record<string, unknown> {
  const config = readAdapterJson(folder, configFile);
  if (config) return config;
  // The folder of a run holds two.
  const inside = ['best', 'adapter'].map((name) => join(folder, name));
  const near = inside.find((path) => existsSync(join(path, configFile)));
  throw new AloraError('model', 'MODEL_ADAPTER_NOT_FOUND', 'There is no PEFT adapter at this path', {
    where: folder,
    allowed: `a folder with ${configFile} and ${weightsFile}`,
    didYouMean: near,
    fix: near ? `Give ${near}.` : 'Give the folder itself, for example runs/my-run/best.',
  });
}

/** Settings that change what the adapter computes, and the values with which they do nothing. */
const idle: Readonly<Record<string, readonly unknown[]>> = {
  use_dora: [false],
  bias: ['none'],
  lora_bias: [false],
  use_qalora: [false],
  use_bdlora: [false],
  layer_replication: [],
  trainable_token_indices: [],
  target_parameters: [],
  arrow_config: [],
  kasa_config: [],
  monteclora_config: [],
};

/** Ways to initialise that move part of the base weights into the adapter: the base file no longer fits it. */
const movesBase = /^(pissa|olora|corda|loftq|lora_ga|lora-ga)/i;

function refuseUnsupported(folder: string, config: Readonly<Record<string, unknown>>): void {
  const refuse = (message: string, got: string, fix: string) =>
    new AloraError('model', 'MODEL_ADAPTER_UNSUPPORTED', message, {
      where: join(folder, configFile),
      got,
      fix,
    });
  if (config.peft_type !== 'LORA' && config.peft_type !== 'ADALORA')
    throw refuse(
      'Adapters of this type are not supported',
      `peft_type ${String(config.peft_type)}`,
      'Use an adapter of type LORA or ADALORA.',
    );
  if (config.alora_invocation_tokens != null)
    throw refuse(
      "This is IBM's Activated LoRA, another method than ALoRA",
      'alora_invocation_tokens',
      'Use an adapter that is active on all tokens.',
    );
  for (const [key, values] of Object.entries(idle)) {
    const value = config[key];
    const empty = Array.isArray(value) && value.length === 0;
    if (value != null && !empty && !values.includes(value))
      throw refuse(
        'The adapter uses a variant of LoRA that is not supported',
        `${key}: ${JSON.stringify(value)}`,
        'Merge it into its model with PEFT, or train one without this option.',
      );
  }
  const init = config.init_lora_weights;
  if (typeof init === 'string' && movesBase.test(init))
    throw refuse(
      'The adapter belongs to base weights that its initialisation changed',
      `init_lora_weights: ${init}`,
      'Convert it with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...).',
    );
}

function namesIn(value: unknown): string[] {
  return Array.isArray(value) ? [...new Set(value.filter((item) => typeof item === 'string'))] : [];
}

interface Factors {
  A?: Tensor;
  B?: Tensor;
  E?: Tensor;
}

/** Splits the file's tensors into low-rank factors by module and tensors of modules_to_save by name. */
function sortTensors(path: string, tensors: ReadonlyMap<string, Tensor>, modulesToSave: readonly string[]) {
  const factors = new Map<string, Factors>();
  const saved = new Map<string, Tensor>();
  for (const [key, tensor] of tensors) {
    const name = key.replace(/^base_model\.model\./, '');
    const factor = /^(.+)\.lora_([ABE])(\.default)?(\.weight)?$/.exec(name);
    if (factor) {
      const parts = factors.get(factor[1]!) ?? {};
      parts[factor[2] as keyof Factors] = tensor;
      factors.set(factor[1]!, parts);
      continue;
    }
    // Older versions of PEFT keep the wrapper in the name: classifier.modules_to_save.default.weight.
    const plain = name.replace(/\.modules_to_save(\.default)?(?=\.)/, '');
    if (/\.(ranknum|original_module)(\.|$)/.test(name)) continue;
    if (/\.lora_/.test(name) || !modulesToSave.some((module) => `.${plain}`.includes(`.${module}.`)))
      throw new AloraError(
        'model',
        'MODEL_ADAPTER_UNSUPPORTED',
        'The adapter holds a tensor of another kind',
        {
          where: path,
          got: key,
          allowed: 'lora_A, lora_B, lora_E of linear layers, and tensors of modules_to_save',
          fix: 'Train the adapter on linear layers only, without DoRA, embeddings or trainable tokens.',
        },
      );
    saved.set(plain, tensor);
  }
  return { factors, saved };
}

function moduleOf(
  folder: string,
  config: Readonly<Record<string, unknown>>,
  name: string,
  { A, B, E }: Factors,
): LowRankWeights {
  const where = `${join(folder, weightsFile)}, module ${name}`;
  const adaptive = config.peft_type === 'ADALORA';
  if (!A || !B || (adaptive && !E))
    throw damagedAdapter(where, `no lora_${A ? (B ? 'E' : 'B') : 'A'} tensor`);
  const [rank = -1, width = 0] = A.dims;
  const [out = 0, columns = -2] = B.dims;
  if (A.dims.length !== 2 || B.dims.length !== 2 || rank !== columns || (E && E.size !== rank))
    throw damagedAdapter(where, `lora_A of shape [${A.dims}] with lora_B of shape [${B.dims}]`);
  const expected = adaptive ? prunedRank(where, config, name) : plainRank(where, config, name);
  if (rank !== expected)
    throw damagedAdapter(where, `rank ${rank} in the tensors, ${expected} in ${configFile}`);
  const values = { A: A.toFloat32(), B: transposed(B), gate: E ? E.toFloat32() : ones(rank) };
  for (const [part, numbers] of Object.entries(values))
    if (!numbers.every(Number.isFinite)) throw damagedAdapter(where, `NaN or infinite values in ${part}`);
  return { rank, in: width, out, scale: scaleOf(where, config, name, rank), ...values };
}

const ones = (count: number) => new Float32Array(count).fill(1);

/** [out, rank] -> [rank, out]. */
function transposed(tensor: Tensor): Float32Array {
  const [rows, columns] = tensor.dims as [number, number];
  const from = tensor.toFloat32();
  const to = new Float32Array(from.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) to[j * rows + i] = from[i * columns + j]!;
  return to;
}

function number(where: string, config: Readonly<Record<string, unknown>>, key: string, or: number): number {
  const value = config[key] ?? or;
  if (typeof value !== 'number' || !Number.isFinite(value))
    throw damagedAdapter(where, `${key}: ${String(value)}`);
  return value;
}

/** A rank_pattern or alpha_pattern: keys are regular expressions for the end of a name; the first match counts. */
function patternValue(where: string, pattern: unknown, name: string): number | undefined {
  for (const [key, value] of Object.entries(pattern ?? {})) {
    let matched: boolean;
    try {
      matched = new RegExp(`^(?:.*\\.)?(?:${key})$`).test(name);
    } catch (cause) {
      throw damagedAdapter(where, `the pattern '${key}'`, cause);
    }
    if (!matched) continue;
    if (typeof value !== 'number' || !Number.isFinite(value))
      throw damagedAdapter(where, `${key}: ${String(value)}`);
    return value;
  }
  return undefined;
}

function plainRank(where: string, config: Readonly<Record<string, unknown>>, name: string): number {
  return patternValue(where, config.rank_pattern, name) ?? number(where, config, 'r', 8);
}

/** AdaLoRA's rank_pattern tells by full name which of the init_r ranks were kept; the tensors are cut already. */
function prunedRank(where: string, config: Readonly<Record<string, unknown>>, name: string): number {
  const initial = number(where, config, 'init_r', 12);
  if (config.rank_pattern == null) return initial;
  const pattern = config.rank_pattern as Readonly<Record<string, unknown>>;
  const kept = pattern[`${name}.lora_E`] ?? pattern[`${name}.lora_E.default`];
  if (!Array.isArray(kept) || kept.length !== initial)
    throw damagedAdapter(where, 'a rank_pattern without the module');
  return kept.filter(Boolean).length;
}

/** LoRA: alpha / r, or alpha / sqrt(r) (rslora). AdaLoRA: alpha / (init_r + 1e-5), whatever ranks are left. */
function scaleOf(
  where: string,
  config: Readonly<Record<string, unknown>>,
  name: string,
  rank: number,
): number {
  const common = number(where, config, 'lora_alpha', 8);
  if (config.peft_type === 'ADALORA') {
    const initial = number(where, config, 'init_r', 12);
    return (common > 0 ? common : initial) / (initial + 1e-5);
  }
  const alpha = patternValue(where, config.alpha_pattern, name) ?? common;
  return alpha / (config.use_rslora === true ? Math.sqrt(rank) : rank);
}
