import { type ChildProcess, fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { availableParallelism, freemem } from 'node:os';
import { fileURLToPath } from 'node:url';
import { AloraError } from '../errors.ts';
import { recordFailure } from './job.ts';
import type { Failure, Job, JobEvents, Runner } from './runner.ts';
import type { FromWorker, ToWorker } from './workerMessages.ts';

export interface LocalRunnerOptions {
  /** Worker processes at the same time. */
  readonly jobs: number;
  /** Path of the worker script; by default the built one. */
  readonly worker?: string;
}

/** Bytes that a worker takes beside its model. */
const baseMemory = 400 * 2 ** 20;

/**
 * Workers that cores and memory allow. A worker is taken to need its frozen weights four times over (the file,
 * the converted copy, activations and gradients): GPT-2 small trains within 2 GB.
 */
export function defaultJobs(model: { readonly parameters: number }, threads: number): number {
  const perJob = baseMemory + 4 * 4 * model.parameters;
  // Younger than Node 20.10; it counts what caches would give back, where freemem does not.
  const memory = process.availableMemory?.() ?? freemem();
  const cores = Math.floor(availableParallelism() / Math.max(1, threads));
  return Math.max(1, Math.min(cores, Math.floor((0.9 * memory) / perJob)));
}

/** The worker that the build puts beside the other entry points. */
const builtWorker = () => fileURLToPath(new URL('./worker.js', import.meta.url));

/**
 * Runs jobs in processes of their own, `jobs` at a time. A process that dies fails its own job only. When the signal
 * aborts, or an observer throws, workers save a checkpoint; when this process dies, they end by themselves.
 */
export function localRunner({ jobs: width, worker = builtWorker() }: LocalRunnerOptions): Runner {
  if (!existsSync(worker))
    throw new AloraError('usage', 'RUNNER_NOT_BUILT', 'the worker of the local runner is not there', {
      where: worker,
      fix: 'build the package, or pass the in-process runner',
    });
  return {
    name: 'local',
    async run(jobs, events, signal) {
      const waiting = [...jobs];
      const broken = new AbortController();
      const stop = AbortSignal.any([signal, broken.signal]);
      const lane = async () => {
        try {
          for (let job = waiting.shift(); job; job = waiting.shift()) {
            if (stop.aborted) return;
            events.onStart?.(job);
            events.onEnd?.(job, await runInWorker(worker, job, events, stop));
          }
        } catch (error) {
          broken.abort();
          throw error;
        }
      };
      const lanes = await Promise.allSettled(Array.from({ length: Math.min(width, jobs.length) }, lane));
      const failed = lanes.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined;
      if (failed) throw failed.reason;
    },
  };
}

/** Resolves when the worker has ended; rejects then with what an observer has thrown. */
function runInWorker(
  worker: string,
  job: Job,
  events: JobEvents,
  signal: AbortSignal,
): Promise<Failure | undefined> {
  return new Promise((resolve, reject) => {
    const child = fork(worker, [], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] });
    let said: FromWorker | undefined;
    let thrown: { readonly error: unknown } | undefined;
    let complaint = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      complaint = (complaint + text).slice(-2000);
    });
    const send = (message: ToWorker) => child.connected && child.send(message);
    const interrupt = () => send({ type: 'interrupt' });
    signal.addEventListener('abort', interrupt);
    child.on('message', (message: FromWorker) => {
      try {
        if (message.type === 'plan') events.onPlan?.(job, message.info);
        else if (message.type === 'step') events.onStep?.(job, message.step, message.loss);
        else if (message.type === 'answers') events.onAnswers?.(job, message.event);
        else if (message.type === 'warning') events.onWarning?.(job, message.message);
        else said = message;
      } catch (error) {
        thrown ??= { error };
        interrupt();
      }
    });
    child.on('error', (error) => {
      complaint = error.message;
    });
    child.on('close', (code, name) => {
      signal.removeEventListener('abort', interrupt);
      if (thrown) reject(thrown.error);
      else if (said?.type === 'done') resolve(undefined);
      else if (said?.type === 'failed') resolve(recordFailure(job.folder, said.failure));
      else resolve(recordFailure(job.folder, crashOf(child, code, name, complaint)));
    });
    send({ type: 'run', job });
  });
}

function crashOf(child: ChildProcess, code: number | null, name: string | null, complaint: string): Failure {
  const last = complaint.trim().split('\n').at(-1);
  return {
    kind: 'crash',
    code: 'WORKER_DIED',
    message: `the worker ${child.pid === undefined ? 'did not start' : name ? `was ended by ${name}` : `ended with code ${code}`}${last ? `: ${last}` : ''}`,
    fix:
      name === 'SIGKILL'
        ? 'often memory: use fewer --jobs, or lower train.batchSize; the next call resumes the run'
        : 'run the same command again: it resumes the run',
  };
}
