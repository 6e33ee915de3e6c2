import type { AnswersEvent, RunInfo } from '../training/reporter.ts';
import type { Failure, Job } from './runner.ts';

/** What the local runner tells a worker. */
export type ToWorker = { readonly type: 'run'; readonly job: Job } | { readonly type: 'interrupt' };

/** What a worker tells the local runner; `done` and `failed` are the last word. */
export type FromWorker =
  | { readonly type: 'plan'; readonly info: RunInfo }
  | { readonly type: 'step'; readonly step: number; readonly loss: number }
  | { readonly type: 'answers'; readonly event: AnswersEvent }
  | { readonly type: 'warning'; readonly message: string }
  | { readonly type: 'done' }
  | { readonly type: 'failed'; readonly failure: Failure };
