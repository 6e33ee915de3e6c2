import { outline, type Point, sampled, smooth, smoothingReach } from '../series.ts';
import { colour } from '../theme.ts';
import { type Figure, figureSize, stepAxis } from './figure.ts';

/** What is drawn small: one number a step. */
export interface PerStep {
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  /** Unit on the axis. */
  readonly unit: string;
  readonly points: readonly Point[];
  /** Of the numbers on the axis, as in d3-format. */
  readonly format: string;
  /** Exact values have no noise to smooth: a schedule. */
  readonly exact?: boolean;
}

/** A small figure of one number over steps, faint as measured and smoothed. Undefined of fewer than two steps. */
export function perStepFigure({
  id,
  title,
  caption,
  unit,
  format,
  points,
  exact,
}: PerStep): Figure | undefined {
  const finite = points.filter((p) => Number.isFinite(p.value));
  if (finite.length < 2) return undefined;
  const weights = finite.map(() => 1);
  const line = exact
    ? outline(finite, 800)
    : sampled(smooth(finite, weights, smoothingReach(finite.length)), 400);
  return {
    id,
    title,
    caption,
    draw: (layout) => ({
      ...figureSize(layout, 'half'),
      height: 200,
      encoding: {
        x: stepAxis(finite.at(-1)!.step),
        y: { field: 'value', type: 'quantitative', title: unit, axis: { tickCount: 4, format } },
      },
      layer: [
        ...(exact
          ? []
          : [
              {
                data: { values: [...outline(finite, 400)] },
                mark: { type: 'line' as const, strokeWidth: 1, stroke: colour('blueFaint') },
              },
            ]),
        {
          data: { values: [...line] },
          mark: {
            type: 'line' as const,
            strokeWidth: 2,
            stroke: colour('blue'),
            strokeJoin: 'round' as const,
          },
        },
      ],
    }),
  };
}
