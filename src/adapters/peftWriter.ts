import { join } from 'node:path';
import { replaceFolder, writeJson } from '../atomicFiles.ts';
import { Tensor } from '../onnx/tensor.ts';
import { configFile, type LowRankWeights, type PeftAdapter, weightsFile } from './peft.ts';
import { writeSafetensors } from './safetensors.ts';

export interface WriteOptions {
  /** adapter_config.json's lora_dropout; for the record, since inference does not use it. */
  readonly dropout?: number;
  /** Writes further files beside the adapter; gets the folder to write to. They appear together with it. */
  readonly beside?: (folder: string) => void;
}

/**
 * Writes an adapter as a LORA folder that PEFT loads; an existing folder stays whole until the new one is.
 * Gates are folded into B. Modules without ranks are left out, since PEFT knows none (an adapter without any
 * rank keeps one, whose B is zero). alpha_pattern holds s * r_i beside rank_pattern, else PEFT's alpha / r
 * would change the function. Errors: STORAGE_WRITE.
 */
export function writePeft(folder: string, adapter: PeftAdapter, options: WriteOptions = {}): void {
  const modules = withRanks(adapter.modules);
  const tensors = new Map<string, Tensor>();
  for (const [name, module] of modules) {
    const { rank, in: width, out } = module;
    tensors.set(`base_model.model.${name}.lora_A.weight`, Tensor.float32(module.A, [rank, width]));
    tensors.set(`base_model.model.${name}.lora_B.weight`, Tensor.float32(gatedB(module), [out, rank]));
  }
  for (const [name, tensor] of adapter.saved) tensors.set(`base_model.model.${name}`, tensor);
  replaceFolder(folder, (partial) => {
    writeSafetensors(join(partial, weightsFile), tensors);
    writeJson(join(partial, configFile), configOf(adapter, modules, options.dropout ?? 0));
    options.beside?.(partial);
  });
}

function withRanks(modules: ReadonlyMap<string, LowRankWeights>): ReadonlyMap<string, LowRankWeights> {
  const kept = new Map([...modules].filter(([, module]) => module.rank > 0));
  const [first] = modules;
  if (kept.size > 0 || !first) return kept;
  const [name, module] = first;
  const zeros = (count: number) => new Float32Array(count);
  return new Map([[name, { ...module, rank: 1, A: zeros(module.in), B: zeros(module.out), gate: zeros(1) }]]);
}

/** lora_B [out, rank]: B transposed, its columns multiplied by the gates. */
function gatedB({ rank, out, B, gate }: LowRankWeights): Float32Array {
  const result = new Float32Array(B.length);
  for (let i = 0; i < rank; i++)
    for (let j = 0; j < out; j++) result[j * rank + i] = B[i * out + j]! * gate[i]!;
  return result;
}

function configOf(adapter: PeftAdapter, modules: ReadonlyMap<string, LowRankWeights>, dropout: number) {
  const rank = mostFrequent([...modules.values()].map((module) => module.rank));
  const alphaOf = (module: LowRankWeights) => alphaFor(module.scale, module.rank);
  const scale = mostFrequent([...modules.values()].map((module) => module.scale));
  const alpha = alphaFor(scale, rank);
  const pattern = (differs: (module: LowRankWeights) => number | undefined) =>
    Object.fromEntries(
      [...modules].flatMap(([name, module]) => {
        const value = differs(module);
        return value === undefined ? [] : [[patternKey(name, adapter.modules), value] as const];
      }),
    );
  return {
    peft_type: 'LORA',
    task_type: taskTypeOf(adapter),
    base_model_name_or_path: adapter.baseModel,
    inference_mode: true,
    r: rank,
    lora_alpha: alpha,
    lora_dropout: dropout,
    target_modules: [...modules.keys()],
    rank_pattern: pattern((module) => (module.rank === rank ? undefined : module.rank)),
    alpha_pattern: pattern((module) => (alphaOf(module) === alpha ? undefined : alphaOf(module))),
    modules_to_save: adapter.modulesToSave.length > 0 ? adapter.modulesToSave : null,
    fan_in_fan_out: adapter.fanInFanOut,
    bias: 'none',
    use_rslora: false,
    use_dora: false,
    init_lora_weights: true,
  };
}

/** s * r, with rounding noise such as 5.000000000000001 taken off, so that whole alphas stay whole. */
function alphaFor(scale: number, rank: number): number {
  const alpha = scale * rank;
  const whole = Math.round(alpha);
  return Math.abs(alpha - whole) < 1e-9 * Math.max(1, whole) ? whole : alpha;
}

/** The most frequent number, the smallest of equals; 8 of none, which is PEFT's default rank. */
function mostFrequent(numbers: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const number of numbers) counts.set(number, (counts.get(number) ?? 0) + 1);
  const order = [...counts].sort(([a, m], [b, n]) => n - m || a - b);
  return order[0]?.[0] ?? 8;
}

/**
 * A pattern that PEFT's `(.*\.)?(key)$` matches against this name alone: the escaped path, and an anchor
 * where it is also the end of another module's path.
 */
function patternKey(name: string, modules: ReadonlyMap<string, unknown>): string {
  const escaped = name.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
  return [...modules.keys()].some((other) => other.endsWith(`.${name}`)) ? `^${escaped}` : escaped;
}

/** PEFT's classification tasks save `classifier` or `score` always, and fail to load where the file lacks them. */
function taskTypeOf({ taskType, modulesToSave }: PeftAdapter): string | null {
  const heads: Readonly<Record<string, readonly string[]>> = {
    SEQ_CLS: ['classifier', 'score'],
    TOKEN_CLS: ['classifier', 'score'],
    QUESTION_ANS: ['qa_outputs'],
  };
  const needed = taskType ? heads[taskType] : undefined;
  return needed && !needed.some((name) => modulesToSave.includes(name)) ? null : taskType;
}
