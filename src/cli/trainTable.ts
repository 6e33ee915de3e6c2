import type { EvalEvent } from '../training/reporter.ts';
import { clock, decimal, rate, thousands } from './format.ts';
import type { Colours } from './terminal.ts';

/** What a row of the table of `train` shows of a step. */
export interface Row {
  readonly step: number;
  readonly loss?: number;
  readonly learningRate?: number;
  readonly gradNorm?: number;
  readonly tokensPerSecond?: number;
  val?: EvalEvent;
}

/** What else it shows. */
export interface RowContext {
  /** The loss of the row before. */
  readonly before: number | undefined;
  /** The evaluation is the best so far. */
  readonly better: boolean;
  readonly ranks: number;
  readonly parameters: number;
  /** Seconds. */
  readonly eta: number | undefined;
}

export interface TrainTable {
  readonly head: string;
  row(row: Row, context: RowContext, colours: Colours): string;
}

interface Column {
  readonly title: string;
  readonly width: number;
  /** Columns with the lowest stay longest where the terminal is narrow. */
  readonly order: number;
  readonly cell: (row: Row, context: RowContext) => string;
  readonly colour?: (text: string, row: Row, context: RowContext, colours: Colours) => string;
}

const given = (value: number | undefined, format: (value: number) => string): string =>
  value === undefined ? '' : format(value);

const columnsFor = (stepWidth: number): readonly Column[] => [
  { title: 'step', width: stepWidth, order: 0, cell: ({ step }) => String(step) },
  {
    title: 'loss ▼',
    width: 10,
    order: 1,
    cell: ({ loss }, { before }) => {
      const arrow = loss === undefined || before === undefined ? ' ' : loss < before ? '▼' : '▲';
      return `${given(loss, decimal)} ${arrow}`;
    },
    colour: (text, _row, _context, colours) =>
      text.replace('▼', colours.green('▼')).replace('▲', colours.red('▲')),
  },
  {
    title: 'val',
    width: 8,
    order: 2,
    cell: ({ val }) => given(val?.loss, decimal),
    colour: (text, _row, { better }, colours) => (better ? colours.green(text) : text),
  },
  { title: 'lr', width: 9, order: 6, cell: ({ learningRate }) => given(learningRate, rate) },
  { title: '‖g‖', width: 8, order: 7, cell: ({ gradNorm }) => given(gradNorm, decimal) },
  { title: 'tok/s', width: 8, order: 5, cell: ({ tokensPerSecond }) => given(tokensPerSecond, thousands) },
  { title: 'rank', width: 6, order: 4, cell: (_, { ranks }) => String(ranks) },
  { title: 'params', width: 10, order: 8, cell: (_, { parameters }) => thousands(parameters) },
  { title: 'eta', width: 8, order: 3, cell: (_, { eta }) => given(eta, clock) },
];

/** Terminals from this width on get every column. */
const wide = 80;

/**
 * The table of a run. On a terminal of fewer than 80 columns it leaves out those that matter least, and the metrics of
 * an evaluation stand on lines of their own, so that no row wraps.
 */
export function trainTable(totalSteps: number, terminal: number | undefined): TrainTable {
  const narrow = terminal !== undefined && terminal < wide ? terminal : undefined;
  const all = columnsFor(Math.max(4, String(totalSteps).length));
  const columns = narrow === undefined ? all : fitting(all, narrow);
  return {
    head: columns.map(({ title, width }) => title.padStart(width)).join(' '),
    row(row, context, colours) {
      const cells = columns.map(({ width, cell, colour }) => {
        const text = cell(row, context).padStart(width);
        return colour ? colour(text, row, context, colours) : text;
      });
      // Perplexity says what the loss beside it says.
      const metrics = Object.entries(row.val?.metrics ?? {})
        .filter(([name]) => name !== 'perplexity')
        .map(([name, value]) => `${name} ${decimal(value)}`);
      const line = cells.join(' ');
      if (metrics.length === 0) return line.trimEnd();
      if (narrow === undefined) return `${line}  ${metrics.join(', ')}`;
      return [line.trimEnd(), note(metrics, ', ', narrow)].join('\n');
    },
  };
}

function fitting(columns: readonly Column[], terminal: number): readonly Column[] {
  const order = [...columns].sort((a, b) => a.order - b.order);
  const widthOf = (kept: readonly Column[]) => kept.reduce((sum, { width }) => sum + width + 1, -1);
  while (order.length > 1 && widthOf(order) > terminal) order.pop();
  return columns.filter((column) => order.includes(column));
}

/** A line between the rows: its parts side by side, or on several lines where the terminal is narrow. */
export function note(parts: readonly string[], separator: string, terminal: number | undefined): string {
  const margin = '      ';
  if (terminal === undefined || terminal >= wide) return `${margin}${parts.join(separator)}`;
  const lines = [''];
  for (const part of parts) {
    const longer = lines.at(-1) === '' ? part : `${lines.at(-1)}${separator}${part}`;
    if (lines.at(-1) !== '' && margin.length + longer.length > terminal) lines.push(part);
    else lines[lines.length - 1] = longer;
  }
  return lines.map((line) => margin + line).join('\n');
}
