import type { CompareReporter } from '../compare/compare.ts';
import { readResult } from '../compare/job.ts';
import type { Job } from '../compare/runner.ts';
import { clock, decimal, plural } from './format.ts';
import { coloursFor, isLive, type Output } from './terminal.ts';

/** The screen of `compare`: one line a run that begins or ends, and on a terminal one live line over the whole grid. */
export interface CompareScreen extends CompareReporter {
  /** Takes the live line away; called however the comparison ends. */
  close(): void;
}

/** Milliseconds between two drawings of the live line. */
const liveInterval = 200;

export function compareScreen(
  out: Output,
  err: Output,
  now: () => number = () => performance.now(),
): CompareScreen {
  const colours = coloursFor(out);
  const live = isLive(out);
  let total = 0;
  let ended = 0;
  let stepsInAll = 0;
  /** Steps of ended runs, and how many of those took none of this call's time. */
  let stepsEnded = 0;
  let stepsBefore = 0;
  let started = now();
  const said = new Set<string>();
  let drawn = false;
  let drawnAt = Number.NEGATIVE_INFINITY;
  const running = new Map<
    string,
    { readonly job: Job; readonly began: number; step: number; first?: number }
  >();

  const clear = () => {
    if (drawn) out.write('\r\x1b[2K');
    drawn = false;
  };
  const print = (line: string) => {
    clear();
    out.write(`${line}\n`);
  };
  const stepsDone = () => stepsEnded + [...running.values()].reduce((sum, { step }) => sum + step, 0);
  /** Seconds left at the pace of this call; steps that were there before it (resumed ones too) took none of its time. */
  const left = (): number | undefined => {
    const resumed = [...running.values()].reduce((sum, { first }) => sum + (first ?? 0), 0);
    const made = stepsDone() - stepsBefore - resumed;
    return made > 0 ? (((now() - started) / made) * (stepsInAll - stepsDone())) / 1000 : undefined;
  };
  const draw = () => {
    if (!live || now() - drawnAt < liveInterval) return;
    drawnAt = now();
    const cells = 24;
    const full = Math.round((stepsDone() / Math.max(1, stepsInAll)) * cells);
    const eta = left();
    const text = [
      `${ended}/${total} runs`,
      `${'━'.repeat(full)}${'╌'.repeat(cells - full)}`,
      eta === undefined ? '' : `${clock(eta)} left`,
      ...[...running.values()].map(({ job, step }) => `${job.id} ${step}/${job.steps}`),
    ].filter(Boolean);
    out.write(`\r\x1b[2K${colours.cyan(text.join('  ').slice(0, (out.columns ?? 80) - 1))}`);
    drawn = true;
  };
  const counter = () => `[${String(ended).padStart(String(total).length)}/${total}]`;

  return {
    close: clear,
    onQueue(jobs, finished) {
      total = jobs.length;
      ended = finished.length;
      stepsInAll = jobs.reduce((sum, { steps }) => sum + steps, 0);
      stepsEnded = stepsBefore = finished.reduce((sum, { steps }) => sum + steps, 0);
      started = now();
      const search = jobs[0]?.kind === 'search';
      const what = plural(jobs.length, search ? 'search run' : 'run');
      print(
        finished.length === jobs.length
          ? `${what}, all finished before: nothing to run`
          : finished.length > 0
            ? `${what}, ${finished.length} of them finished before`
            : what,
      );
    },
    onStart(job) {
      running.set(job.id, { job, began: now(), step: 0 });
      draw();
    },
    onPlan(job, { startStep }) {
      const state = running.get(job.id);
      if (state) [state.step, state.first] = [startStep, startStep];
      if (startStep > 0) print(`${counter()} ${job.id}: goes on at step ${startStep}`);
    },
    onStep(job, step) {
      const state = running.get(job.id);
      if (state) state.step = step;
      draw();
    },
    onEnd(job, failure) {
      const { began, step, first = 0 } = running.get(job.id) ?? { began: now(), step: 0 };
      running.delete(job.id);
      // Steps that no time went into: those before a resumed run's checkpoint, and those that a failed run never made.
      stepsBefore += first + (failure ? job.steps - step : 0);
      if (failure?.kind !== 'interrupted') {
        ended++;
        stepsEnded += job.steps;
      }
      if (failure) {
        print(`${counter()} ${job.id}: ${colours.red(`${failure.kind}: ${failure.message}`)}`);
        return;
      }
      const result = readResult(job);
      const scores = [
        result?.dev && `dev ${decimal(result.dev.best.loss)}`,
        result?.test && `test ${decimal(result.test.best.loss)}`,
        result?.stoppedEarly && 'stopped early',
        clock((now() - began) / 1000),
      ].filter(Boolean);
      const eta = left();
      print(
        `${counter()} ${job.id}: ${scores.join(' · ')}${ended < total && eta !== undefined ? colours.dim(` · ${clock(eta)} left`) : ''}`,
      );
    },
    onWarning(job, message) {
      // All runs read the same data, and rounds repeat themselves: the same sentence with other numbers is said once.
      const sentence = message.replace(/\d+/g, '#');
      if (said.has(sentence)) return;
      said.add(sentence);
      clear();
      err.write(`${coloursFor(err).yellow('warning')}: ${job.id}: ${message}\n`);
    },
    onNotice(message) {
      clear();
      err.write(`${coloursFor(err).yellow('warning')}: ${message}\n`);
    },
  };
}
