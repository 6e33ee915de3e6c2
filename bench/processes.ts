import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { StepCase } from './cases.ts';

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
export const isHalf = (variant: Variant): boolean => variant.startsWith('bf16');

export const runOurs = (step: StepCase): Measured => runBundled('ours', step);

/** Runs a file of the bench, bundled beside this one, with its input on standard input. */
export function runBundled<Result>(name: string, input: unknown): Result {
  const child = fileURLToPath(new URL(`${name}.js`, import.meta.url));
  return lastLine(process.execPath, [child], input, process.env);
}

export function runPeer(python: string, variant: Variant, step: StepCase): Measured {
  const config: unknown = JSON.parse(readFileSync(join(step.folder, 'config.json'), 'utf8'));
  const environment = {
    ...process.env,
    TOKENIZERS_PARALLELISM: 'false',
    ...(step.threads > 0 ? { OMP_NUM_THREADS: String(step.threads) } : {}),
  };
  return lastLine(python, ['bench/peer.py', variant], { ...step, config }, environment);
}

/** The JSON that a process prints last. Errors with the last line of what it says on standard error. */
function lastLine<Result>(command: string, args: string[], input: unknown, env: NodeJS.ProcessEnv): Result {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    input: JSON.stringify(input),
    env,
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  if (error) throw error;
  if (status !== 0) throw new Error(stderr.trim().split('\n').at(-1) || `exit code ${status}`);
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as Result;
}

/** A Python with torch, transformers and peft: ONNX_ALORA_PYTHON, else python3; or why there is none, in a line. */
export function findPython(): { readonly python: string } | { readonly missing: string } {
  const python = process.env.ONNX_ALORA_PYTHON ?? 'python3';
  const { status, stderr, error } = spawnSync(python, ['-c', 'import torch, transformers, peft'], {
    encoding: 'utf8',
  });
  if (status === 0) return { python };
  const reason = error ? `no ${python}` : `${python}: ${stderr.trim().split('\n').at(-1)}`;
  return { missing: `${reason}; set ONNX_ALORA_PYTHON to a Python with torch, transformers and peft` };
}
