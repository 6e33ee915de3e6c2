import { failureOf, type JobOptions, recordFailure, runJob } from './job.ts';
import type { Failure, Job, JobEvents, Runner } from './runner.ts';

/** Runs jobs one after the other in this process: for strategies that exist only here, as objects. */
export function inProcessRunner(options: Omit<JobOptions, 'reporters' | 'signal'>): Runner {
  const runOne = async (job: Job, events: JobEvents, signal: AbortSignal): Promise<Failure | undefined> => {
    try {
      await runJob(job, {
        ...options,
        signal,
        reporters: [
          {
            onRunStart: (info) => events.onPlan?.(job, info),
            onStep: ({ step, loss }) => events.onStep?.(job, step, loss),
            onAnswers: (event) => events.onAnswers?.(job, event),
            onWarning: (message) => events.onWarning?.(job, message),
          },
        ],
      });
      return undefined;
    } catch (thrown) {
      return recordFailure(job.folder, failureOf(thrown));
    }
  };
  return {
    name: 'in-process',
    async run(jobs, events, signal) {
      for (const job of jobs) {
        if (signal.aborted) return;
        events.onStart?.(job);
        events.onEnd?.(job, await runOne(job, events, signal));
      }
    },
  };
}
