import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Labelling, modelFolder, models, shape } from './cases.ts';

/** What one process reports: seconds of each step, the first left out, and its peak resident memory in bytes. */
export interface Measured {
  readonly steps: readonly number[];
  /** Seconds of processor time of each step, over all threads: what other work on the machine changes less. */
  readonly cpu: readonly number[];
  readonly peak: number;
  readonly loss: number;
  /** Ours only: seconds of a step outside ONNX Runtime; seconds to read the model and to build and open the step. */
  readonly outside?: readonly number[];
  readonly loadSeconds?: number;
  readonly buildSeconds?: number;
  readonly versions?: Readonly<Record<string, string>>;
}

export const variants = ['eager', 'sdpa', 'compile', 'bf16-weights', 'bf16-autocast'] as const;
export type Variant = (typeof variants)[number];

export interface RunOptions {
  readonly steps: number;
  /** 0: one a core. */
  readonly threads: number;
}

export function runOurs(model: string, labelling: Labelling, { steps, threads }: RunOptions): Measured {
  const child = fileURLToPath(new URL('ours.js', import.meta.url));
  const environment = { ...process.env, BENCH_THREADS: String(threads) };
  return measured(process.execPath, [child, model, labelling, String(steps)], '', environment);
}

export function runPeer(
  python: string,
  model: string,
  labelling: Labelling,
  variant: Variant,
  { steps, threads }: RunOptions,
): Measured {
  const { vocabulary, targets, modulesToSave } = models[model]!;
  const config: unknown = JSON.parse(readFileSync(`${modelFolder(model)}/config.json`, 'utf8'));
  const input = { ...shape, config, labelling, vocabulary, targets, modulesToSave, threads };
  const environment = {
    ...process.env,
    TOKENIZERS_PARALLELISM: 'false',
    ...(threads > 0 ? { OMP_NUM_THREADS: String(threads) } : {}),
  };
  return measured(python, ['bench/peer.py', variant, String(steps)], JSON.stringify(input), environment);
}

function measured(command: string, args: string[], input: string, env: NodeJS.ProcessEnv): Measured {
  const { status, stdout, stderr } = spawnSync(command, args, { input, env, encoding: 'utf8' });
  if (status !== 0) throw new Error(`${args.join(' ')} failed\n${stderr.split('\n').slice(-12).join('\n')}`);
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as Measured;
}

/** A Python with torch, transformers and peft: ONNX_ALORA_PYTHON, else python3; undefined where there is none. */
export function findPython(): string | undefined {
  const python = process.env.ONNX_ALORA_PYTHON ?? 'python3';
  const { status } = spawnSync(python, ['-c', 'import torch, transformers, peft'], { stdio: 'ignore' });
  return status === 0 ? python : undefined;
}
