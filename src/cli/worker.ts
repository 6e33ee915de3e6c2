/** A worker process of `compare`: takes one job by message, trains it, and tells how it went. */
import { failureOf, runJob } from '../compare/job.ts';
import type { FromWorker, ToWorker } from '../compare/workerMessages.ts';
import * as strategies from '../strategies.ts';
import { tasks } from '../tasks/index.ts';
import { asAloraError } from './errorBlock.ts';

const abort = new AbortController();
/** Milliseconds between two messages about progress: a step of a tiny model takes less. */
const interval = 200;
let toldAt = 0;

function isDue(): boolean {
  if (performance.now() - toldAt < interval) return false;
  toldAt = performance.now();
  return true;
}

const tell = (message: FromWorker, then?: () => void): void => {
  if (process.connected) process.send?.(message, () => then?.());
};

// Ctrl-C and the end of a terminal reach the whole group of processes: the parent decides what that means, and says
// so by message.
for (const name of ['SIGINT', 'SIGHUP']) process.on(name, () => {});
process.on('SIGTERM', () => abort.abort());
// Without a parent nobody wants the result; the next call resumes from the last checkpoint.
process.on('disconnect', () => process.exit(1));
process.on('message', (message: ToWorker) => {
  if (message.type === 'interrupt') abort.abort();
  else void work(message);
});

async function work({ job }: Extract<ToWorker, { type: 'run' }>): Promise<void> {
  let last: FromWorker;
  try {
    await runJob(job, {
      strategies,
      tasks: Object.keys(tasks),
      signal: abort.signal,
      reporters: [
        {
          onRunStart: (info) => tell({ type: 'plan', info }),
          onStep({ step, loss }) {
            if (isDue()) tell({ type: 'step', step, loss });
          },
          onAnswers(event) {
            if (event.done === 0 || isDue()) tell({ type: 'answers', event });
          },
          onWarning: (message) => tell({ type: 'warning', message }),
        },
      ],
    });
    last = { type: 'done' };
  } catch (thrown) {
    last = { type: 'failed', failure: failureOf(asAloraError(thrown) ?? thrown) };
  }
  tell(last, () => process.exit(0));
}
