import type { RunInfo } from '../training/reporter.ts';
import { bytes, percent, plural, rate, rounded, thousands } from './format.ts';
import { shortPath } from './paths.ts';
import type { Colours } from './terminal.ts';

/** A name and what stands beside it. */
export type Line = readonly [name: string, text: string];

/** Lines in a frame on a terminal, plain lines in a pipe; long texts wrap at ` · ` and spaces. */
export function panel(
  title: string,
  lines: readonly Line[],
  width: number,
  framed: boolean,
  colours: Colours,
): string {
  const names = Math.max(...lines.map(([name]) => name.length)) + 2;
  if (!framed) return [title, ...lines.map(([name, text]) => `${name.padEnd(names)}${text}`)].join('\n');
  const inner = width - 4;
  const body = lines.flatMap(([name, text]) =>
    wrap(text, inner - names).map((part, i) => {
      const label = (i === 0 ? name : '').padEnd(names);
      return `│ ${colours.dim(label)}${part.padEnd(inner - names)} │`;
    }),
  );
  const top = `╭─ ${colours.bold(title)} ${'─'.repeat(Math.max(0, width - 5 - title.length))}╮`;
  return [top, ...body, `╰${'─'.repeat(width - 2)}╯`].join('\n');
}

function wrap(text: string, width: number): string[] {
  const lines = [''];
  for (const word of text.split(' ')) {
    const line = lines.at(-1)!;
    if (line === '') lines[lines.length - 1] = word.slice(0, width);
    else if (line.length + 1 + word.length <= width) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word.slice(0, width));
  }
  return lines;
}

/** What is known of a run before its first step. */
export function runPanel(run: RunInfo): Line[] {
  const ranks = run.modules.map((module) => module.rank);
  const uniform = ranks.every((rank) => rank === ranks[0]);
  const kinds = [...new Set(run.modules.map((module) => module.name.split('.').at(-1)!))];
  const { budget } = run;
  const splits = Object.entries(run.data).map(([name, split]) => `${name} ${plural(split.rows, 'row')}`);
  const labels = run.data.train?.labels;
  return [
    [
      'model',
      `${run.model.name} · ${run.model.backbone} · opset ${run.model.opset} · ${rounded(run.model.parameters)} frozen`,
    ],
    [
      'adapter',
      `${run.strategy} · ${plural(run.modules.length, 'module')} · ${uniform ? `rank ${ranks[0] ?? 0} each` : `ranks ${Math.min(...ranks)} to ${Math.max(...ranks)}`}`,
    ],
    ['targets', kinds.join(' ')],
    [
      'budget',
      `${thousands(budget[budget.at].parameters)} of ${thousands(budget.target)} trained scalars, ${budget.at} · ${percent(budget[budget.at].parameters / run.model.parameters)} of the model${budget.heads > 0 ? ` · and ${thousands(budget.heads)} in heads` : ''}`,
    ],
    [
      'data',
      `${run.task} · ${splits.join(' · ')}${labels === undefined ? '' : ` · ${rounded(labels)} trained ${run.task === 'classification' ? 'labels' : 'tokens'}`}`,
    ],
    [
      'optimizer',
      `AdamW · lr ${rate(run.learningRate)} ${run.schedule}, warm-up ${run.warmupSteps} · ${plural(run.totalSteps, 'step')} of ${run.batchSize}${run.accumulate > 1 ? ` x ${run.accumulate}` : ''} rows, ${run.maxLength} tokens at most`,
    ],
    [
      'runtime',
      `${run.device} · ${run.compute === 'int8' ? 'int8 products · ' : ''}${run.threads === 0 ? 'one thread per core' : plural(run.threads, 'thread')} · seed ${run.seed}${run.memoryEstimate === undefined ? '' : ` · about ${bytes(run.memoryEstimate)}`}`,
    ],
    ['output', shortPath(run.output)],
  ];
}
