import type { TopLevelSpec } from 'vega-lite';
import { textWidth } from '../textWidth.ts';
import { colour, divergingRamp, ramp } from '../theme.ts';
import type { Figure } from './figure.ts';

export interface Cell {
  /** Position along the long side: a layer, or a round. */
  readonly along: string;
  /** Position along the other side: a kind of module. */
  readonly across: string;
  /** Decides the colour. */
  readonly value: number;
  readonly text: string;
}

export interface Heat {
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  readonly cells: readonly Cell[];
  /** Name of the long side. */
  readonly alongTitle: string;
  readonly along: readonly string[];
  readonly across: readonly string[];
  /** Colour domain: 0..high, or -high..high when diverging. Shared by the maps that are compared. */
  readonly high: number;
  readonly diverging?: boolean;
}

/** Width that the labels of the `across` side take, in pixels. */
const labelWidth = (labels: readonly string[]) =>
  Math.max(...labels.map((label) => textWidth(label, 11))) + 18;

/** A grid of coloured, numbered cells: kinds as rows and layers as columns, or turned where the page is narrow. */
export function heatFigure(heat: Heat): Figure {
  const { id, title, caption } = heat;
  return { id, title, caption, draw: (layout) => draw(heat, layout === 'narrow') };
}

function draw(heat: Heat, turned: boolean): TopLevelSpec {
  const colours = (heat.diverging ? divergingRamp : ramp).map(([light]) => light);
  // A short long side needs no turning: it fits a narrow page as it is.
  const swap = turned && heat.along.length * 24 + labelWidth(heat.across) > 360;
  const room = turned ? (swap ? 290 : 364 - labelWidth(heat.across)) : 976 - labelWidth(heat.across);
  const columns = swap ? heat.across.length : heat.along.length;
  const wide = Math.max(6, Math.min(40, Math.floor(room / columns)));
  const high = swap ? 22 : Math.min(30, Math.max(wide, 22));
  const widest = Math.max(...heat.cells.map((cell) => cell.text.length));
  const numbered = wide >= 8 + widest * 6;
  // Only what did not change at all is neutral.
  const scale = heat.diverging
    ? {
        type: 'threshold' as const,
        domain: [-0.6, -0.25, -1e-6, 1e-6, 0.25, 0.6].map((share) => share * heat.high),
        range: colours,
      }
    : { type: 'quantize' as const, domain: [0, heat.high], range: colours, nice: false, zero: false };
  const strong = heat.diverging
    ? `abs(datum.value) >= ${0.6 * heat.high}`
    : `datum.value > ${0.55 * heat.high}`;
  const named = `isNaN(+datum.label) ? datum.label : '${heat.alongTitle} ' + datum.label`;
  const along = {
    field: 'along',
    type: 'ordinal' as const,
    title: heat.alongTitle,
    sort: [...heat.along],
    scale: { domain: [...heat.along] },
    axis: { domain: false, ticks: false, labelAngle: 0, labelOverlap: true, labelFlush: false },
  };
  const across = {
    field: 'across',
    type: 'ordinal' as const,
    title: null,
    sort: [...heat.across],
    scale: { domain: [...heat.across] },
    axis: {
      domain: false,
      ticks: false,
      labelAngle: swap ? -50 : 0,
      labelLimit: 220,
      labelColor: colour('ink'),
      ...(swap
        ? { orient: 'top' as const, labelAlign: 'left' as const, labelBaseline: 'middle' as const }
        : {}),
    },
  };
  return {
    width: { step: wide },
    height: { step: high },
    data: { values: [...heat.cells] },
    encoding: swap
      ? { x: across, y: { ...along, title: null, axis: { ...along.axis, labelExpr: named } } }
      : { x: along, y: across },
    layer: [
      {
        mark: { type: 'rect', stroke: colour('surface'), strokeWidth: 2, cornerRadius: 3 },
        encoding: {
          color: {
            field: 'value',
            type: 'quantitative',
            scale,
            legend: numbered ? null : { orient: 'right', title: null, format: '.3~g' },
          },
        },
      },
      ...(numbered
        ? [
            {
              mark: { type: 'text' as const, fontSize: 11 },
              encoding: {
                text: { field: 'text', type: 'nominal' as const },
                color: {
                  condition: { test: strong, value: colour('onStrong') },
                  value: colour('onWeak'),
                },
              },
            },
          ]
        : []),
    ],
  };
}
