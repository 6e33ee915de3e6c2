import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../atomicFiles.ts';
import { readRunFile } from '../config/read.ts';
import { AloraError } from '../errors.ts';
import type { StrategyRegistry } from '../training/assemble.ts';
import { claimFolder } from '../training/lock.ts';
import type { Reporter, RunResult } from '../training/reporter.ts';
import { trainClaimed } from '../training/train.ts';
import type { Failure, Job } from './runner.ts';

/** Milliseconds to wait for a worker that lost its parent and still finishes a step. */
const patience = 60_000;

const resultFile = { run: 'result.json', search: 'search.json' } as const;

export interface JobOptions {
  readonly strategies: StrategyRegistry;
  readonly tasks?: readonly string[];
  readonly reporters?: readonly Reporter[];
  readonly signal?: AbortSignal;
  readonly command?: string;
}

/** What a job left, if it finished. */
export function readResult({ folder, kind }: Pick<Job, 'folder' | 'kind'>): RunResult | undefined {
  const path = join(folder, resultFile[kind]);
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as RunResult) : undefined;
}

/** Why a job ended without a result, if it did. */
export function readFailure(folder: string): Failure | undefined {
  const path = join(folder, 'failed.json');
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Failure) : undefined;
}

/** Trains what `run.yaml` in the job's folder says, from the checkpoint where there is one. Throws what `train` throws. */
export async function runJob(job: Job, options: JobOptions): Promise<void> {
  const { folder, kind } = job;
  if (readResult(job)) return;
  const release = await claimFolder(folder, patience);
  try {
    const { config, strategies } = await readRunFile(join(folder, 'run.yaml'), options);
    await trainClaimed(
      { ...config, output: folder },
      {
        strategies: { ...options.strategies, ...strategies },
        resume: true,
        reporters: options.reporters,
        signal: options.signal,
        command: options.command ?? `onnx-alora train ${join(folder, 'run.yaml')} --resume`,
      },
    );
    // A search is no run of the comparison: nothing that collects results may take it for one.
    if (kind === 'search') renameSync(join(folder, resultFile.run), join(folder, resultFile.search));
    rmSync(join(folder, 'failed.json'), { force: true });
  } finally {
    release();
  }
}

/** A thrown value as a record, written beside the run unless it was only interrupted. */
export function recordFailure(folder: string, failure: Failure): Failure {
  if (failure.kind !== 'interrupted')
    writeFileAtomic(join(folder, 'failed.json'), `${JSON.stringify(failure, null, 2)}\n`);
  return failure;
}

export function failureOf(thrown: unknown): Failure {
  if (thrown instanceof AloraError) {
    const { kind, code, message, details } = thrown;
    return { kind, code, message, where: details.where, fix: details.fix };
  }
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return { kind: 'crash', code: 'INTERNAL', message };
}
