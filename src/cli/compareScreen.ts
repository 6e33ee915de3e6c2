import type { CompareReporter } from '../compare/compare.ts';
import { readResult } from '../compare/job.ts';
import type { Job } from '../compare/runner.ts';
import type { AnswersEvent } from '../training/reporter.ts';
import { clock, decimal, plural } from './format.ts';
import { bar, liveLine } from './liveLine.ts';
import { coloursFor, isLive, type Output } from './terminal.ts';

/** The screen of `compare`: one line a run that begins or ends, and on a terminal one live line over the whole grid. */
export interface CompareScreen extends CompareReporter {
  /** Takes the live line away; called however the comparison ends. */
  close(): void;
}

export function compareScreen(
  out: Output,
  err: Output,
  now: () => number = () => performance.now(),
): CompareScreen {
  const colours = coloursFor(out);
  const line = liveLine(out, now, 200);
  let total = 0;
  let ended = 0;
  let stepsInAll = 0;
  let stepsEnded = 0;
  /** Runs that have not ended. */
  const open = new Map<string, Job>();
  /** Time and steps of ended runs of this call, by method; most runs at the same time. */
  const spent = new Map<string, Pace>();
  let width = 1;
  const said = new Set<string>();
  const running = new Map<
    string,
    { readonly job: Job; readonly began: number; step: number; first?: number; answers?: AnswersEvent }
  >();

  const print = (text: string) => {
    line.clear();
    out.write(`${text}\n`);
  };
  const stepsDone = () => stepsEnded + [...running.values()].reduce((sum, { step }) => sum + step, 0);
  /** What the runs of each method have taken in this call; what was there before it (resumed steps too) took nothing. */
  const paces = (): Map<string, Pace> => {
    const all = new Map(spent);
    for (const { job, began, step, first = 0 } of running.values())
      all.set(methodOf(job), plus(all.get(methodOf(job)), { ms: now() - began, steps: step - first }));
    return all;
  };
  /**
   * Seconds left, each run at the pace of its method (one that scores ranks takes longer for its steps), or at that of
   * all while its method has none.
   */
  const left = (): number | undefined => {
    const known = paces();
    const overall = [...known.values()].reduce(plus, { ms: 0, steps: 0 });
    if (overall.steps === 0) return undefined;
    const times = [...open.values()].map((job) => {
      const own = known.get(methodOf(job));
      const pace = own && own.steps > 0 ? own : overall;
      return (pace.ms / pace.steps) * (job.steps - (running.get(job.id)?.step ?? 0));
    });
    const inAll = times.reduce((sum, ms) => sum + ms, 0);
    return Math.max(inAll / width, ...times) / 1000;
  };
  const draw = () =>
    line.draw(() => {
      const eta = left();
      return [
        `${ended}/${total} runs`,
        bar(stepsDone() / Math.max(1, stepsInAll)),
        eta === undefined ? '' : `${clock(eta)} left`,
        ...[...running.values()].map(({ job, step, answers }) =>
          answers ? `${job.id} answers ${answers.done}/${answers.prompts}` : `${job.id} ${step}/${job.steps}`,
        ),
      ];
    });
  const counter = () => `[${String(ended).padStart(String(total).length)}/${total}]`;

  return {
    close: line.clear,
    onQueue(jobs, finished) {
      total = jobs.length;
      ended = finished.length;
      stepsInAll = jobs.reduce((sum, { steps }) => sum + steps, 0);
      stepsEnded = finished.reduce((sum, { steps }) => sum + steps, 0);
      open.clear();
      for (const job of jobs) if (!finished.some(({ id }) => id === job.id)) open.set(job.id, job);
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
      width = Math.max(width, running.size);
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
    onAnswers(job, answers) {
      const state = running.get(job.id);
      if (state) Object.assign(state, { step: job.steps, answers });
      if (answers.done === 0 && !isLive(out))
        print(`${counter()} ${job.id}: answers ${plural(answers.prompts, 'prompt')} of test`);
      draw();
    },
    onEnd(job, failure) {
      const { began, step, first = 0 } = running.get(job.id) ?? { began: now(), step: 0 };
      running.delete(job.id);
      open.delete(job.id);
      const took = { ms: now() - began, steps: (failure ? step : job.steps) - first };
      spent.set(methodOf(job), plus(spent.get(methodOf(job)), took));
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
      line.clear();
      err.write(`${coloursFor(err).yellow('warning')}: ${job.id}: ${message}\n`);
    },
    onNotice(message) {
      line.clear();
      err.write(`${coloursFor(err).yellow('warning')}: ${message}\n`);
    },
  };
}

interface Pace {
  readonly ms: number;
  readonly steps: number;
}

const plus = (a: Pace | undefined, b: Pace): Pace => ({
  ms: (a?.ms ?? 0) + b.ms,
  steps: (a?.steps ?? 0) + b.steps,
});

/** `alora` of `alora-1a2b3c4d/seed-0`. */
const methodOf = ({ id }: Job): string => id.replace(/-[^-/]*\/.*$/, '');
