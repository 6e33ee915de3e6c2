import type { Figure } from '../src/report/figures/figure.ts';
import { colour } from '../src/report/theme.ts';
import type { ScalingPoint } from './scalingTable.ts';

/** Small multiples: a column an axis, time above memory, one scale a row. */
export function scalingFigure(points: readonly ScalingPoint[], axes: readonly string[]): Figure {
  const rows = [
    {
      title: 'ms a step',
      of: ({ seconds }: ScalingPoint) => 1000 * seconds.median,
      top: Math.max(...points.map(({ seconds }) => 1000 * seconds.high)),
      hue: colour('blue'),
    },
    {
      title: 'MB at peak',
      of: ({ peak }: ScalingPoint) => peak / 1e6,
      top: Math.max(...points.map(({ peak }) => peak / 1e6)),
      hue: colour('teal'),
    },
  ];
  const panel = (axis: string, { title, of, top, hue }: (typeof rows)[number], width: number) => {
    const first = axis === axes[0];
    return {
      width,
      height: 120,
      data: {
        values: points
          .filter((point) => point.axis === axis)
          .map((point) => ({
            at: point.at,
            value: of(point),
            low: 1000 * point.seconds.low,
            high: 1000 * point.seconds.high,
          })),
      },
      encoding: {
        x: {
          field: 'at',
          type: 'quantitative' as const,
          title: axis,
          axis: { tickCount: 4, labelFlush: false },
          scale: { zero: true, nice: false },
        },
      },
      layer: [
        ...(hue === rows[0]!.hue
          ? [
              {
                mark: { type: 'rule' as const, stroke: colour('blueFaint'), strokeWidth: 4 },
                encoding: { y: { field: 'low', type: 'quantitative' as const }, y2: { field: 'high' } },
              },
            ]
          : []),
        {
          mark: {
            type: 'line' as const,
            stroke: hue,
            strokeWidth: 2,
            point: { size: 26, fill: hue, filled: true },
          },
          encoding: {
            y: {
              field: 'value',
              type: 'quantitative' as const,
              title: first ? title : null,
              axis: { tickCount: 4, labels: first, titleX: first ? -34 : 0 },
              scale: { domain: [0, 1.05 * top], nice: false },
            },
          },
        },
      ],
    };
  };
  return {
    id: 'scaling',
    title: 'Cost of a step',
    caption:
      'Median and range of a step, and peak memory of its process, as one size grows and the others stay.',
    draw: (layout) => ({
      spacing: 30,
      vconcat: rows.map((row) => ({
        spacing: 24,
        bounds: 'flush' as const,
        hconcat: axes.map((axis) => panel(axis, row, layout === 'wide' ? 150 : 64)),
      })),
    }),
  };
}
