import type { ErrorKind } from '../errors.ts';
import type { AnswersEvent, RunInfo } from '../training/reporter.ts';

/**
 * One run of a comparison, as any engine can take it: a name, an input file, an output folder. Runs are idempotent
 * and safe to deliver more than once: a finished one returns at once, a half-done one goes on from its checkpoint,
 * and a lock in the folder keeps two at the same time apart.
 */
export interface Job {
  /** Content-addressed: `alora-1a2b3c4d/seed-0`. The same name always means the same run. */
  readonly id: string;
  /** Folder of the run; its `run.yaml`, the resolved run file, is there before the job is handed over. */
  readonly folder: string;
  /** `result.json` and `adapter/` of a run; a search leaves `search.json` in place of result.json. */
  readonly kind: 'run' | 'search';
  /** Optimizer steps. */
  readonly steps: number;
}

/** Why a run has no result; `failed.json` in its folder. */
export interface Failure {
  /** `crash`: the process ended without a word. */
  readonly kind: ErrorKind | 'crash';
  readonly code: string;
  readonly message: string;
  readonly where?: string;
  readonly fix?: string;
}

/** What a runner tells of its jobs. */
export interface JobEvents {
  onStart?(job: Job): void;
  onPlan?(job: Job, info: RunInfo): void;
  onStep?(job: Job, step: number, loss: number): void;
  /** After the last step: prompts of test that were answered, of how many. */
  onAnswers?(job: Job, event: AnswersEvent): void;
  onWarning?(job: Job, message: string): void;
  /** Ended: with its result on the disk, or with a failure. */
  onEnd?(job: Job, failure?: Failure): void;
}

/**
 * Where jobs run. Resolves when every job has ended one way or another, and never rejects because of one job. When
 * `signal` aborts, jobs that run save a checkpoint and end with a failure of kind `interrupted`, and no other starts.
 */
export interface Runner {
  readonly name: string;
  run(jobs: readonly Job[], events: JobEvents, signal: AbortSignal): Promise<void>;
}
