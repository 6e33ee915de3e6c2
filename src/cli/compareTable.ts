import { shortfalls } from '../compare/checks.ts';
import type { ComparePlan } from '../compare/compare.ts';
import { pointLabel } from '../compare/expand.ts';
import { type Column, type CompareRecord, variantName } from '../compare/record.ts';
import { decimal, plural, thousands } from './format.ts';
import { shortPath } from './paths.ts';
import { table } from './table.ts';
import type { Colours } from './terminal.ts';

const columnTitle = ({ split, metric }: Column): string => `${split} ${metric}`;

/** The result of a comparison on the screen: a table per point of the grid in the form of the paper, then what to know. */
export function compareSummary(record: CompareRecord, colours: Colours): string {
  const blocks: string[] = [];
  const points = [...new Set(record.variants.map(({ point }) => pointLabel(point)))];
  for (const point of points) {
    if (point !== '') blocks.push(colours.bold(point));
    blocks.push(pointTable(record, point, colours));
  }
  const notes = [
    `median, and mean ± standard deviation over seeds ${record.seeds.join(', ')}; * is ahead of every other method with a 95 % interval that excludes zero`,
    record.learningRate === null
      ? 'learning rates were searched on dev, or differ between methods'
      : `one learning rate for all methods, ${record.learningRate}: it was not searched for each`,
    ...shortfalls(record.variants, record.methods).map((line) => `below 99 % of the budget: ${line}`),
    ...record.variants.flatMap(({ runs }) =>
      runs.filter(({ stoppedEarly }) => stoppedEarly).map(({ folder }) => `${folder} stopped early`),
    ),
  ];
  blocks.push(notes.map((note) => colours.dim(note)).join('\n'));
  const bad = record.checks.filter(({ state }) => state === 'failed');
  blocks.push(
    bad.length === 0
      ? `checked: ${record.checks.map(({ name, state }) => (state === 'ok' ? name : `${name} (not all runs)`)).join(', ')}`
      : bad.map(({ name, detail }) => colours.red(`not identical treatment: ${name}: ${detail}`)).join('\n'),
  );
  return blocks.join('\n\n');
}

function pointTable(record: CompareRecord, point: string, colours: Colours): string {
  const variants = record.variants.filter((variant) => pointLabel(variant.point) === point);
  const columns = record.columns.filter(({ split }) => split === (record.columns[0]?.split ?? 'dev'));
  const head = ['method', 'runs', 'initial', 'final', ...columns.map(columnTitle)];
  const rows = variants.map((variant) => {
    const finished = variant.runs.filter(({ state }) => state === 'finished');
    const finals = finished.map(({ budget }) => budget!.final.parameters);
    const planned = variant.plan.modules.reduce(
      (sum, { rank, costOfOneRank }) => sum + rank * costOfOneRank,
      0,
    );
    return [
      record.methods[variant.method]!.label,
      finished.length === variant.runs.length
        ? `${finished.length}`
        : `${finished.length} of ${variant.runs.length}`,
      thousands(planned),
      finals.length > 0 ? range(finals) : '–',
      ...columns.map((column) => {
        const summary = variant.summary[column.id];
        if (!summary) return '–';
        const text = `${decimal(summary.median)}  ${decimal(summary.mean)}${summary.sd === null ? '' : ` ± ${decimal(summary.sd)}`}`;
        return variant.ahead.includes(column.id) ? colours.bold(`${text} *`) : text;
      }),
    ];
  });
  return table(head, rows, `lrrr${'r'.repeat(columns.length)}`, colours);
}

const range = (values: readonly number[]): string => {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return least === most ? thousands(least) : `${thousands(least)} to ${thousands(most)}`;
};

/** What `compare --dry-run` prints: every method's plan against the budget, and what would run. */
export function comparePlanText(plan: ComparePlan, colours: Colours): string {
  const rows = plan.variants.map(({ method, point, folder }, i) => {
    const { budget } = plan.plans[i]!;
    const { initial, final } = { initial: initialOf(plan, i), final: budget.final.parameters };
    return [
      variantName(
        { methods: plan.labels.map((label) => ({ label, strategy: '', options: {} })) },
        { method, point },
      ),
      thousands(initial),
      thousands(budget.peak.parameters),
      thousands(final),
      thousands(budget.average.parameters),
      `${((100 * budget[budget.at].parameters) / budget.target).toFixed(2)} %`,
      folder,
    ];
  });
  const { budget, totalSteps } = plan.plans[0]!;
  const open = plan.jobs.length - plan.finished.length;
  return [
    `${plan.info.model.name} · ${plan.info.task} · ${plural(totalSteps, 'step')} · budget ${thousands(budget.target)} parameters, ${budget.at}`,
    table(
      ['method', 'initial', 'peak', 'final', 'average', `of the ${budget.at} budget`, 'folder'],
      rows,
      'lrrrrrl',
      colours,
    ),
    `${plural(plan.jobs.length, 'run')} in ${shortPath(plan.output)}, ${open} to do`,
  ].join('\n\n');
}

const initialOf = ({ plans }: ComparePlan, i: number): number =>
  plans[i]!.modules.reduce((sum, { rank, costOfOneRank }) => sum + rank * costOfOneRank, 0);
