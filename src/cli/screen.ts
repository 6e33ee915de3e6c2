import type {
  AllocationEvent,
  AnswersEvent,
  Reporter,
  RunInfo,
  RunResult,
  SampleEvent,
  StepEvent,
} from '../training/reporter.ts';
import { clock, decimal, plural, thousands } from './format.ts';
import { liveLine, progress } from './liveLine.ts';
import { panel, runPanel } from './panel.ts';
import { runSummary } from './summary.ts';
import { coloursFor, isLive, type Output, widthOf } from './terminal.ts';
import { note, type Row, type TrainTable, trainTable } from './trainTable.ts';

/** The screen of `train`: a header panel, an aligned table, one live line on a terminal, a summary. */
export interface TrainScreen extends Reporter {
  /** Takes the live line away; called however the run ends. */
  close(): void;
}

/** Rows of the table that a run of any length gets, about. */
const tableRows = 40;

/** Steps between printed rows: 1, 2 or 5 times a power of ten. */
export function rowInterval(totalSteps: number): number {
  const wanted = totalSteps / tableRows;
  for (let unit = 1; ; unit *= 10)
    for (const factor of [1, 2, 5]) if (unit * factor >= wanted) return unit * factor;
}

export function trainScreen(
  out: Output,
  err: Output,
  now: () => number = () => performance.now(),
): TrainScreen {
  const colours = coloursFor(out);
  const line = liveLine(out, now);
  let info: RunInfo | undefined;
  let interval = 1;
  let started = 0;
  let ranks = 0;
  let parameters = 0;
  let costs = new Map<string, number>();
  let table: TrainTable | undefined;
  let pending: Row | undefined;
  let shownLoss: number | undefined;
  let bestVal = Number.POSITIVE_INFINITY;
  let sums = { loss: 0, labels: 0, tokens: 0, ms: 0 };
  let moved = { pruned: 0, grown: 0 };
  const samples: SampleEvent[] = [];

  const print = (text: string) => {
    line.clear();
    out.write(`${text}\n`);
  };
  const notes = (...parts: readonly string[]) => note(parts, ' · ', out.columns);

  const remaining = (step: number): number | undefined => {
    const done = step - (info?.startStep ?? 0);
    if (!info || done <= 0) return undefined;
    return (((now() - started) / done) * (info.totalSteps - step)) / 1000;
  };

  const flush = () => {
    if (!pending || !info) return;
    const row = pending;
    pending = undefined;
    if (!table) {
      table = trainTable(info.totalSteps, out.columns);
      print(`\n${colours.bold(table.head)}`);
    }
    if (moved.pruned + moved.grown > 0)
      print(colours.dim(notes(`ranks: ${moved.pruned} pruned, ${moved.grown} grown since the last row`)));
    moved = { pruned: 0, grown: 0 };
    const better = row.val !== undefined && row.val.loss < bestVal;
    if (better) bestVal = row.val!.loss;
    const context = { before: shownLoss, better, ranks, parameters, eta: remaining(row.step) };
    print(table.row(row, context, colours));
    if (row.loss !== undefined) shownLoss = row.loss;
  };

  const draw = (event: StepEvent) => {
    if (!info) return;
    const { totalSteps } = info;
    line.draw(() => {
      const eta = remaining(event.step);
      return [
        ...progress(event.step, totalSteps),
        `loss ${decimal(event.loss)}`,
        `${thousands((1000 * event.tokens) / Math.max(event.ms, 1e-3))} tok/s`,
        eta === undefined ? '' : `eta ${clock(eta)}`,
      ];
    });
  };

  return {
    close: line.clear,
    onRunStart(run) {
      info = run;
      interval = rowInterval(run.totalSteps);
      started = now();
      costs = new Map(run.modules.map((module) => [module.name, module.costOfOneRank]));
      ranks = run.modules.reduce((sum, module) => sum + module.rank, 0);
      parameters = run.modules.reduce((sum, module) => sum + module.rank * module.costOfOneRank, 0);
      print(panel(`onnx-alora · ${run.strategy}`, runPanel(run), widthOf(out), isLive(out), colours));
      if (run.startStep > 0) print(`resumed at step ${run.startStep}`);
    },
    onStep(event) {
      flush();
      sums.loss += event.loss * event.labels;
      sums.labels += event.labels;
      sums.tokens += event.tokens;
      sums.ms += event.ms;
      const last = event.step === info?.totalSteps;
      if (event.step === 1 || event.step % interval === 0 || last) {
        pending = {
          step: event.step,
          loss: sums.loss / Math.max(sums.labels, 1),
          learningRate: event.learningRate,
          gradNorm: event.gradNorm,
          tokensPerSecond: (1000 * sums.tokens) / Math.max(sums.ms, 1e-3),
        };
        sums = { loss: 0, labels: 0, tokens: 0, ms: 0 };
        // A row whose evaluation is still to come waits for it.
        const evaluates =
          last || (info?.evalEvery !== undefined && info.evalEvery > 0 && event.step % info.evalEvery === 0);
        if (!evaluates) flush();
      }
      draw(event);
    },
    onEval(event) {
      if (event.split !== 'dev') return;
      if (pending?.step !== event.step) {
        flush();
        pending = { step: event.step };
      }
      pending.val = event;
      flush();
    },
    onAllocation(event) {
      ranks = sum(Object.values(event.ranks));
      parameters = sum(Object.entries(event.ranks).map(([name, r]) => r * (costs.get(name) ?? 0)));
      if (event.scores === undefined) {
        moved.pruned += event.pruned.length;
        moved.grown += sum(Object.values(event.grown));
        return;
      }
      flush();
      print(colours.magenta(notes(...allocationParts(event))));
    },
    onCheckpoint({ kind, path }) {
      if (kind !== 'checkpoint') return;
      flush();
      print(colours.dim(notes(`saved ${path}`)));
    },
    onSample(event) {
      samples.push(event);
    },
    onAnswers({ done, prompts }: AnswersEvent) {
      flush();
      if (done === 0) print(colours.dim(notes(`answers ${plural(prompts, 'prompt')} of test`)));
      line.draw(() => [...progress(done, prompts), 'answers']);
    },
    onWarning(message) {
      line.clear();
      err.write(`${coloursFor(err).yellow('warning')}: ${message}\n`);
    },
    onRunEnd(result: RunResult) {
      flush();
      line.clear();
      if (info) out.write(`\n${runSummary(info, result, result.samples ?? samples, colours)}\n`);
    },
  };
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

function allocationParts(event: AllocationEvent): string[] {
  const grown = Object.entries(event.grown).filter(([, count]) => count > 0);
  const parts = [
    `round ${event.round}: pruned ${plural(event.pruned.length, 'rank')} in ${plural(new Set(event.pruned.map((p) => p.module)).size, 'module')}`,
    `grew ${sum(grown.map(([, count]) => count))} in ${plural(grown.length, 'module')}`,
  ];
  if (event.loss)
    parts.push(
      `loss ${decimal(event.loss.before)} -> ${decimal(event.loss.pruned)} -> ${decimal(event.loss.grown)}`,
    );
  if (event.seconds !== undefined) parts.push(`${event.seconds.toFixed(1)} s`);
  return parts;
}
