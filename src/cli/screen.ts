import type {
  AllocationEvent,
  AnswersEvent,
  EvalEvent,
  Reporter,
  RunInfo,
  RunResult,
  SampleEvent,
  StepEvent,
} from '../training/reporter.ts';
import { clock, decimal, plural, rate, thousands } from './format.ts';
import { panel, runPanel } from './panel.ts';
import { runSummary } from './summary.ts';
import { type Colours, coloursFor, isLive, type Output, widthOf } from './terminal.ts';

/** The screen of `train`: a header panel, an aligned table, one live line on a terminal, a summary. */
export interface TrainScreen extends Reporter {
  /** Takes the live line away; called however the run ends. */
  close(): void;
}

/** Rows of the table that a run of any length gets, about. */
const tableRows = 40;
/** Milliseconds between two drawings of the live line. */
const liveInterval = 100;

/** Steps between printed rows: 1, 2 or 5 times a power of ten. */
export function rowInterval(totalSteps: number): number {
  const wanted = totalSteps / tableRows;
  for (let unit = 1; ; unit *= 10)
    for (const factor of [1, 2, 5]) if (unit * factor >= wanted) return unit * factor;
}

interface Row {
  readonly step: number;
  readonly loss?: number;
  readonly learningRate?: number;
  readonly gradNorm?: number;
  readonly tokensPerSecond?: number;
  val?: EvalEvent;
}

export function trainScreen(
  out: Output,
  err: Output,
  now: () => number = () => performance.now(),
): TrainScreen {
  const colours = coloursFor(out);
  const live = isLive(out);
  let info: RunInfo | undefined;
  let interval = 1;
  let started = 0;
  let ranks = 0;
  let parameters = 0;
  let costs = new Map<string, number>();
  let headed = false;
  let drawn = false;
  let drawnAt = Number.NEGATIVE_INFINITY;
  let pending: Row | undefined;
  let shownLoss: number | undefined;
  let bestVal = Number.POSITIVE_INFINITY;
  let sums = { loss: 0, labels: 0, tokens: 0, ms: 0 };
  let moved = { pruned: 0, grown: 0 };
  const samples: SampleEvent[] = [];

  const clear = () => {
    if (drawn) out.write('\r\x1b[2K');
    drawn = false;
  };
  const print = (line: string) => {
    clear();
    out.write(`${line}\n`);
  };

  const remaining = (step: number): number | undefined => {
    const done = step - (info?.startStep ?? 0);
    if (!info || done <= 0) return undefined;
    return (((now() - started) / done) * (info.totalSteps - step)) / 1000;
  };

  const flush = () => {
    if (!pending || !info) return;
    const row = pending;
    pending = undefined;
    const width = Math.max(4, String(info.totalSteps).length);
    if (!headed) print(`\n${colours.bold(tableHead(width))}`);
    headed = true;
    if (moved.pruned + moved.grown > 0)
      print(colours.dim(`      ranks: ${moved.pruned} pruned, ${moved.grown} grown since the last row`));
    moved = { pruned: 0, grown: 0 };
    const better = row.val !== undefined && row.val.loss < bestVal;
    if (better) bestVal = row.val!.loss;
    print(
      tableRow(
        row,
        { width, before: shownLoss, better, ranks, parameters, eta: remaining(row.step) },
        colours,
      ),
    );
    if (row.loss !== undefined) shownLoss = row.loss;
  };

  const drawLine = (done: number, total: number, ...details: readonly string[]) => {
    if (!live || now() - drawnAt < liveInterval) return;
    drawnAt = now();
    const cells = 24;
    const full = Math.round((done / total) * cells);
    const text = [
      `${String(done).padStart(String(total).length)}/${total}`,
      `${'━'.repeat(full)}${'╌'.repeat(cells - full)}`,
      ...details,
    ].join('  ');
    out.write(`\r\x1b[2K${colours.cyan(text.slice(0, (out.columns ?? 80) - 1))}`);
    drawn = true;
  };

  const draw = (event: StepEvent) => {
    if (!live || !info) return;
    const eta = remaining(event.step);
    drawLine(
      event.step,
      info.totalSteps,
      `loss ${decimal(event.loss)}`,
      `${thousands((1000 * event.tokens) / Math.max(event.ms, 1e-3))} tok/s`,
      eta === undefined ? '' : `eta ${clock(eta)}`,
    );
  };

  return {
    close: clear,
    onRunStart(run) {
      info = run;
      interval = rowInterval(run.totalSteps);
      started = now();
      costs = new Map(run.modules.map((module) => [module.name, module.costOfOneRank]));
      ranks = run.modules.reduce((sum, module) => sum + module.rank, 0);
      parameters = run.modules.reduce((sum, module) => sum + module.rank * module.costOfOneRank, 0);
      print(panel(`onnx-alora · ${run.strategy}`, runPanel(run), widthOf(out), live, colours));
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
      print(colours.magenta(allocationLine(event)));
    },
    onCheckpoint({ kind, path }) {
      if (kind !== 'checkpoint') return;
      flush();
      print(colours.dim(`      saved ${path}`));
    },
    onSample(event) {
      samples.push(event);
    },
    onAnswers({ done, prompts }: AnswersEvent) {
      flush();
      if (done === 0) print(colours.dim(`      answers ${plural(prompts, 'prompt')} of test`));
      drawLine(done, prompts, 'answers');
    },
    onWarning(message) {
      clear();
      err.write(`${coloursFor(err).yellow('warning')}: ${message}\n`);
    },
    onRunEnd(result: RunResult) {
      flush();
      clear();
      if (info) out.write(`\n${runSummary(info, result, result.samples ?? samples, colours)}\n`);
    },
  };
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

function tableHead(stepWidth: number): string {
  return [
    'step'.padStart(stepWidth),
    'loss ▼'.padStart(10),
    'val'.padStart(8),
    'lr'.padStart(9),
    '‖g‖'.padStart(8),
    'tok/s'.padStart(8),
    'rank'.padStart(6),
    'params'.padStart(10),
    'eta'.padStart(8),
  ].join(' ');
}

interface RowContext {
  readonly width: number;
  readonly before: number | undefined;
  readonly better: boolean;
  readonly ranks: number;
  readonly parameters: number;
  readonly eta: number | undefined;
}

function tableRow(row: Row, context: RowContext, colours: Colours): string {
  const { before, better, ranks, parameters, eta } = context;
  const falls = row.loss !== undefined && before !== undefined && row.loss < before;
  const arrow =
    row.loss === undefined || before === undefined ? ' ' : falls ? colours.green('▼') : colours.red('▲');
  const val = (row.val ? decimal(row.val.loss) : '').padStart(8);
  const cells = [
    String(row.step).padStart(context.width),
    `${(row.loss === undefined ? '' : decimal(row.loss)).padStart(8)} ${arrow}`,
    better ? colours.green(val) : val,
    (row.learningRate === undefined ? '' : rate(row.learningRate)).padStart(9),
    (row.gradNorm === undefined ? '' : decimal(row.gradNorm)).padStart(8),
    (row.tokensPerSecond === undefined ? '' : thousands(row.tokensPerSecond)).padStart(8),
    String(ranks).padStart(6),
    thousands(parameters).padStart(10),
    (eta === undefined ? '' : clock(eta)).padStart(8),
  ];
  // Perplexity says what the loss beside it says.
  const metrics = Object.entries(row.val?.metrics ?? {}).filter(([name]) => name !== 'perplexity');
  const text = metrics.map(([name, value]) => `${name} ${decimal(value)}`).join(', ');
  return `${cells.join(' ')}${text && `  ${text}`}`.trimEnd();
}

function allocationLine(event: AllocationEvent): string {
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
  return `      ${parts.join(' · ')}`;
}
