import type { Column } from '../../compare/record.ts';
import { median } from '../../compare/statistics.ts';
import type { Variant } from '../readCompare.ts';
import { spaced } from '../sections/header.ts';
import { colour } from '../theme.ts';
import { type Figure, figureSize } from './figure.ts';
import { methodScales } from './methods.ts';

export const columnName = ({ split, metric }: Column): string => `${split} ${spaced(metric)}`;

const direction = ({ lowerIsBetter }: Column) => (lowerIsBetter ? 'lower is better' : 'higher is better');

/** The score of every seed as a dot, and the median of each method as a bar: the spread behind the table. */
export function seedsFigure(
  variants: readonly Variant[],
  labels: readonly string[],
  column: Column,
  id: string,
  where: string,
): Figure | undefined {
  const dots = variants.flatMap(({ label, runs }) =>
    runs.flatMap(({ values }) => {
      const value = values?.[column.id];
      return value === undefined ? [] : [{ method: label, value }];
    }),
  );
  if (dots.length === 0) return undefined;
  const medians = labels.flatMap((method) => {
    const values = dots.filter((dot) => dot.method === method).map(({ value }) => value);
    return values.length > 0 ? [{ method, value: median(values) }] : [];
  });
  const { color } = methodScales(labels);
  return {
    id,
    title: `${columnName(column)}, seed by seed${where}`,
    caption: `One dot a seed, the bar is the median; ${direction(column)}.`,
    draw: (layout) => ({
      ...figureSize(layout, 'half'),
      height: 40 + 38 * labels.length,
      encoding: {
        y: {
          field: 'method',
          type: 'nominal',
          title: null,
          sort: [...labels],
          axis: { labelColor: colour('ink'), labelLimit: layout === 'wide' ? 200 : 130, grid: true },
        },
        x: {
          field: 'value',
          type: 'quantitative',
          title: columnName(column),
          // The first dot keeps clear of the names.
          scale: { zero: false, nice: false, padding: 14 },
          axis: { tickCount: 4, format: '.4~g' },
        },
        color: { ...color, legend: null },
      },
      layer: [
        {
          data: { values: medians },
          mark: { type: 'tick', thickness: 3, height: 22 },
        },
        { data: { values: dots }, mark: { type: 'point', filled: true, size: 60, opacity: 0.6 } },
      ],
    }),
  };
}

/** Score against the parameters spent, one line a method (the paper's Figure 2); undefined with a single budget. */
export function budgetFigure(
  variants: readonly Variant[],
  labels: readonly string[],
  column: Column,
): Figure | undefined {
  const points = variants.flatMap((variant) => {
    const summary = variant.summary[column.id];
    const spent = variant.runs.flatMap(({ budget }) => (budget ? [budget.final.parameters] : []));
    if (!summary || spent.length === 0) return [];
    const sd = summary.sd ?? 0;
    return [
      {
        method: variant.label,
        parameters: median(spent),
        value: summary.mean,
        low: summary.mean - sd,
        high: summary.mean + sd,
      },
    ];
  });
  if (new Set(variants.map(({ plan }) => plan.budget.target)).size < 2 || points.length === 0)
    return undefined;
  return {
    id: 'performance-against-budget',
    title: `${columnName(column)} against the budget`,
    caption: `Trained parameters at the end of the run, and the mean over the seeds with one standard deviation to each side; ${direction(column)}. The form of the paper's Figure 2.`,
    draw: (layout) => ({
      ...figureSize(layout),
      height: layout === 'wide' ? 360 : 300,
      data: { values: points },
      encoding: {
        x: {
          field: 'parameters',
          type: 'quantitative',
          title: 'trained parameters',
          scale: { type: 'log', nice: false, padding: 12 },
          axis: { tickCount: layout === 'wide' ? 8 : 4, format: '.3~s' },
        },
        ...methodScales(labels),
      },
      layer: [
        {
          mark: { type: 'rule', strokeWidth: 1.25, opacity: 0.6 },
          encoding: {
            y: { field: 'low', type: 'quantitative', title: null, scale: { zero: false } },
            y2: { field: 'high' },
          },
        },
        {
          mark: { type: 'line', strokeWidth: 2, point: { size: 50, filled: true } },
          encoding: { y: { field: 'value', type: 'quantitative', title: null, scale: { zero: false } } },
        },
      ],
    }),
  };
}
