import { cpSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { bertConfig, writeBert } from './models/bert.ts';
import { gpt2Config, writeGpt2 } from './models/gpt2.ts';
import { llamaConfig, writeLlama } from './models/llama.ts';

/** Which positions of a row are labelled: all, the last 16 (an answer after an instruction), or one class a row. */
export const labellings = ['all', 'instruction', 'classification'] as const;
export type Labelling = (typeof labellings)[number];

export const computes = ['float32', 'int8'] as const;

export interface BenchModel {
  readonly title: string;
  readonly vocabulary: number;
  /** Name endings, as PEFT's target_modules takes them. */
  readonly targets: readonly string[];
  readonly modulesToSave: readonly string[];
  readonly labellings: readonly Labelling[];
  readonly write: (folder: string) => void;
}

export const models: Readonly<Record<string, BenchModel>> = {
  gpt2: {
    title: 'GPT-2 small, 124 M',
    vocabulary: gpt2Config.vocab_size,
    targets: ['c_attn', 'c_proj', 'c_fc'],
    modulesToSave: [],
    labellings: ['all', 'instruction'],
    write: writeGpt2,
  },
  llama: {
    title: 'Llama, 107 M',
    vocabulary: llamaConfig.vocab_size,
    targets: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
    modulesToSave: [],
    labellings: ['all', 'instruction'],
    write: writeLlama,
  },
  bert: {
    title: 'BERT base, 109 M',
    vocabulary: bertConfig.vocab_size,
    targets: ['query', 'key', 'value', 'attention.output.dense', 'intermediate.dense', 'output.dense'],
    modulesToSave: ['classifier'],
    labellings: ['classification'],
    write: writeBert,
  },
};

/** Rows and positions of a batch, rank of the adapters, labelled positions of an instruction row. */
export const shape = { batch: 4, length: 128, rank: 8, answer: 16 } as const;

/** What one process trains, ours or a peer's; passed to it as JSON on standard input. */
export interface StepCase {
  /** Of the model. */
  readonly folder: string;
  readonly vocabulary: number;
  readonly targets: readonly string[];
  readonly modulesToSave: readonly string[];
  readonly labelling: Labelling;
  readonly batch: number;
  readonly length: number;
  readonly rank: number;
  readonly answer: number;
  /** Measured steps, after one that warms up. */
  readonly steps: number;
  /** 0: one a core. */
  readonly threads: number;
  /** Ours only: model.compute. Default float32. */
  readonly compute?: (typeof computes)[number];
  /** Ours only: train.recompute. Default false. */
  readonly recompute?: boolean;
}

export function stepCase(
  name: string,
  labelling: Labelling,
  run: Pick<StepCase, 'steps' | 'threads' | 'compute' | 'recompute'>,
): StepCase {
  const { vocabulary, targets, modulesToSave } = models[name]!;
  const { steps, threads, compute, recompute } = run;
  const folder = modelFolder(name);
  return {
    folder,
    vocabulary,
    targets,
    modulesToSave,
    labelling,
    ...shape,
    steps,
    threads,
    compute,
    recompute,
  };
}

/** The folder of a model, written at its first use. */
export function modelFolder(name: string): string {
  return writtenOnce(name, models[name]!.write);
}

export function writtenOnce(name: string, write: (folder: string) => void): string {
  const folder = join('.models', name);
  if (!existsSync(join(folder, 'config.json'))) write(folder);
  return folder;
}

/** Gives a folder of `.models` the tokenizer of a small fixture, whose tokens any of the models has. */
export function withTokenizer(folder: string): void {
  for (const file of ['tokenizer.json', 'tokenizer_config.json'])
    if (!existsSync(join(folder, file))) cpSync(join('fixtures/models/gpt2', file), join(folder, file));
}
