import type { BudgetPoint } from '../series.ts';
import { colour } from '../theme.ts';
import { type Figure, figureSize, stepAxis } from './figure.ts';

function figure(
  id: string,
  title: string,
  caption: string,
  points: readonly { step: number; value: number }[],
  target?: number,
): Figure {
  const values = points.map((p) => p.value);
  const low = Math.min(...values, target ?? Infinity);
  const high = Math.max(...values, target ?? 0);
  // A change of a few per cent is what an allocation does: an axis from zero would flatten it.
  const zero = low < 0.7 * high;
  const margin = Math.max((high - low) * 0.15, high * 0.005, 2);
  const y = {
    type: 'quantitative' as const,
    title: null,
    // The budget's line comes first, and has no field that would bring a grid along.
    axis: { tickCount: 4, format: ',d', grid: true },
    scale: { domain: zero ? [0, high * 1.08] : [low - margin, high + margin], nice: false },
  };
  return {
    id,
    title,
    caption,
    draw: (layout) => ({
      ...figureSize(layout, 'half'),
      height: 210,
      layer: [
        ...(target === undefined
          ? []
          : [
              {
                mark: {
                  type: 'rule' as const,
                  strokeDash: [4, 3],
                  stroke: colour('orange'),
                  strokeWidth: 1.5,
                },
                data: { values: [{}] },
                encoding: { y: { datum: target, ...y } },
              },
              {
                data: { values: [{}] },
                mark: {
                  type: 'text' as const,
                  text: 'budget',
                  align: 'right' as const,
                  baseline: 'bottom' as const,
                  dy: -3,
                  x: 'width' as const,
                  fill: colour('orange'),
                },
                encoding: { y: { datum: target, ...y } },
              },
            ]),
        {
          data: { values: [...points] },
          mark: { type: 'line', interpolate: 'step-after', strokeWidth: 2.25, stroke: colour('teal') },
          encoding: {
            y: { field: 'value', ...y },
            x: stepAxis(points.at(-1)!.step),
          },
        },
      ],
    }),
  };
}

/** Trained scalars over steps, with the budget as a dashed line, and live ranks where their sum changes. */
export function budgetFigures(points: readonly BudgetPoint[], target?: number): Figure[] {
  if (points.length < 2) return [];
  const figures: Figure[] = [];
  if (points.every((p) => p.parameters !== undefined))
    figures.push(
      figure(
        'budget',
        'Trained parameters over time',
        'Scalars of the adapters that train, gates that train included, heads excluded.',
        points.map((p) => ({ step: p.step, value: p.parameters! })),
        target,
      ),
    );
  const ranks = points.map((p) => ({ step: p.step, value: p.ranks }));
  if (ranks.some((p) => p.value !== ranks[0]!.value))
    figures.push(figure('total-ranks', 'Live ranks over time', 'Sum of ranks over all modules.', ranks));
  return figures;
}
