import { basename, join } from 'node:path';
import { missingModule, otherDimensions } from '../adapters/adapterMismatch.ts';
import { AdapterSet } from '../adapters/adapterSet.ts';
import { transposed } from '../adapters/mergePlan.ts';
import type { LinearModule, ModelConfig, TargetModule } from '../adapters/module.ts';
import { classifierFile } from '../adapters/newClassifier.ts';
import {
  packAdapter,
  rankCounts,
  readRankCounts,
  separateAdapter,
  splitFile,
  unpackAdapter,
} from '../adapters/packAdapter.ts';
import { type LoadedPeftAdapter, type LowRankWeights, type PeftAdapter, readPeft } from '../adapters/peft.ts';
import { writePeft } from '../adapters/peftWriter.ts';
import { writeJson } from '../atomicFiles.ts';
import { Tensor } from '../onnx/tensor.ts';
import type { TrainedHead } from '../runtime/trainedHead.ts';
import { findTask } from '../tasks/index.ts';
import type { Assembly } from './assemble.ts';

interface PeftContext {
  readonly scaling: (module: TargetModule) => number;
  readonly heads: readonly TrainedHead[];
  readonly modulesToSave: readonly string[];
  readonly baseModel: string;
  readonly taskType: 'CAUSAL_LM' | 'SEQ_CLS' | 'TOKEN_CLS' | 'QUESTION_ANS' | 'SEQ_2_SEQ_LM';
  readonly fanInFanOut: boolean;
}

/** The adapter as PEFT stores it: live ranks only, heads in torch's layout [out, in]. */
function toPeft(adapters: AdapterSet, context: PeftContext): PeftAdapter {
  const modules = new Map<string, LowRankWeights>();
  for (const module of adapters.modules) {
    if (!adapters.has(module, 'lora_A')) continue;
    const live = adapters.live(module);
    const kept = live.flatMap((on, i) => (on ? [i] : []));
    const rows = (role: string, width: number) => {
      const values = adapters.parameter(module, role);
      const out = new Float32Array(kept.length * width);
      kept.forEach((row, i) => {
        out.set(values.subarray(row * width, (row + 1) * width), i * width);
      });
      return out;
    };
    modules.set(module.name, {
      rank: kept.length,
      in: module.in,
      out: module.out,
      scale: context.scaling(module),
      A: rows('lora_A', module.in),
      B: rows('lora_B', module.out),
      gate: adapters.has(module, 'gate') ? rows('gate', 1) : new Float32Array(kept.length).fill(1),
    });
  }
  const saved = new Map<string, Tensor>();
  for (const head of context.heads) {
    const { module } = head;
    const weight = adapters.parameter(module, 'weight');
    const matrix = head.layout === 'out-in' ? weight : transposed(weight, module.in, module.out);
    saved.set(`${module.name}.weight`, Tensor.float32(matrix, [module.out, module.in]));
    if (adapters.has(module, 'bias'))
      saved.set(`${module.name}.bias`, Tensor.float32(adapters.parameter(module, 'bias'), [module.out]));
  }
  return {
    modules,
    saved,
    modulesToSave: context.modulesToSave,
    baseModel: context.baseModel,
    taskType: context.taskType,
    fanInFanOut: context.fanInFanOut,
  };
}

/**
 * Reads an adapter for a model's layers: what belongs to a fused projection that is split is dealt to its parts, and
 * what belongs to layers that the file packs into one becomes that one's. Errors: MODEL_ADAPTER_*, ADAPTER_NOT_SPLIT.
 */
export function adapterFor(
  folder: string,
  linear: readonly LinearModule[],
  config: ModelConfig,
): LoadedPeftAdapter {
  const dealt = unpackAdapter(readPeft(folder), linear, readRankCounts(folder));
  return packAdapter(dealt, linear, config);
}

/** The adapted modules of an adapter within a model, in graph order. Errors: ADAPTER_MISMATCH. */
export function modulesOfAdapter(
  adapter: LoadedPeftAdapter,
  linear: readonly LinearModule[],
): LinearModule[] {
  const byName = new Map(linear.map((module) => [module.name, module]));
  for (const [name, weights] of adapter.modules) {
    const module = byName.get(name);
    if (!module) throw missingModule(adapter, name, byName.keys());
    if (module.in !== weights.in || module.out !== weights.out)
      throw otherDimensions(adapter, name, {
        got: `${weights.in} -> ${weights.out}`,
        allowed: `${module.in} -> ${module.out}`,
      });
  }
  return linear
    .filter((module) => adapter.modules.has(module.name))
    .map((module, index) => ({ ...module, index }));
}

/** Copies the numbers of an adapter into a set that was laid out for its ranks. Errors: ADAPTER_MISMATCH. */
export function loadFactors(
  adapters: AdapterSet,
  adapter: LoadedPeftAdapter,
  heads: readonly TrainedHead[],
): void {
  for (const module of adapters.modules) {
    const weights = adapter.modules.get(module.name);
    if (!weights) continue;
    adapters.parameter(module, 'lora_A').set(weights.A);
    adapters.parameter(module, 'lora_B').set(weights.B);
    // A strategy whose gates train starts them from lora_E where the adapter has it; LoRA folders hold ones.
    if (adapters.has(module, 'gate')) adapters.parameter(module, 'gate').set(weights.gate);
  }
  for (const head of heads) {
    const { name, in: width, out } = head.module;
    const weight = adapter.saved.get(`${name}.weight`);
    if (weight) {
      if (weight.dims[0] !== out || weight.dims[1] !== width)
        throw otherDimensions(adapter, name, { got: `[${weight.dims}]`, allowed: `[${out}, ${width}]` });
      const matrix = weight.toFloat32();
      adapters
        .parameter(head.module, 'weight')
        .set(head.layout === 'out-in' ? matrix : transposed(matrix, out, width));
    }
    const bias = adapter.saved.get(`${name}.bias`);
    if (bias && bias.size !== out)
      throw otherDimensions(adapter, `${name}.bias`, { got: `[${bias.dims}]`, allowed: `[${out}]` });
    if (bias && adapters.has(head.module, 'bias'))
      adapters.parameter(head.module, 'bias').set(bias.toFloat32());
  }
}

/** An adapter that a run saved, laid out as the run's own are; it may have other ranks. */
export function savedAdapters(
  {
    adapted,
    modules,
    backbone,
    config,
  }: Pick<Assembly, 'adapted' | 'modules' | 'backbone'> & {
    readonly config: { readonly train: { readonly seed: number } };
  },
  folder: string,
): AdapterSet {
  const saved = adapterFor(folder, modules, backbone.config);
  const ranks = adapted.modules.map((module) => saved.modules.get(module.name)?.rank ?? 0);
  const heads = adapted.heads.map((head) => head.module);
  const adapters = new AdapterSet(adapted.modules, adapted.parameters, ranks, config.train.seed, heads);
  loadFactors(adapters, saved, adapted.heads);
  return adapters;
}

/** Saves the adapter of a run as PEFT does. */
export function saveRunAdapter(
  folder: string,
  run: Pick<Assembly, 'adapters' | 'adapted' | 'directory' | 'backbone' | 'modules' | 'scaling'> & {
    readonly config: {
      readonly adapter: { readonly dropout: number };
      readonly data: { readonly task: string };
    };
    readonly data: { readonly classNames: readonly string[] };
  },
): void {
  const { adapters, adapted, directory, backbone, modules, scaling } = run;
  const adapter = toPeft(adapters, {
    scaling,
    heads: adapted.heads,
    modulesToSave: adapted.heads.map((head) => head.module.name),
    baseModel: String(backbone.config._name_or_path || basename(directory.folder)),
    taskType: taskType(backbone, run.config.data.task),
    // PEFT's word for Conv1D, which keeps its weight as [in, out].
    fanInFanOut: modules.some((module) => module.fanInFanOut),
  });
  // PEFT sees the original model: parts of a layer that is fused there too are one layer, and what an exporter packed
  // is apart.
  const fused = fusedInOriginal(modules);
  const counts = rankCounts(adapter, fused, backbone.config);
  const { pooling } = adapted;
  const original = separateAdapter(packAdapter(adapter, fused, backbone.config), modules, backbone.config);
  writePeft(folder, original, {
    dropout: run.config.adapter.dropout,
    beside(partial) {
      if (counts) writeJson(join(partial, splitFile), counts);
      if (pooling) writeJson(join(partial, classifierFile), { pooling, labels: run.data.classNames });
    },
  });
}

/** The fused layers whose parts are among the modules, each once, where the original model has them fused. */
function fusedInOriginal(modules: readonly LinearModule[]): LinearModule[] {
  const fused = modules.flatMap(({ part }) => (part?.packing.fusedInOriginal ? [part.of] : []));
  return [...new Map(fused.map((module) => [module.name, module])).values()];
}

function taskType({ kind, seq2seq }: Assembly['backbone'], task: string): PeftContext['taskType'] {
  if (seq2seq) return 'SEQ_2_SEQ_LM';
  return kind === 'encoder' ? taskTypes[findTask(task).head ?? 'sequence'] : taskTypes[kind];
}

const taskTypes = {
  causal: 'CAUSAL_LM',
  sequence: 'SEQ_CLS',
  tag: 'TOKEN_CLS',
  span: 'QUESTION_ANS',
} as const;
