import type { TopLevelSpec } from 'vega-lite';

/** `narrow` fits a telephone at full text size, where a scaled-down wide figure could not be read. */
export type Layout = 'wide' | 'narrow';

/** One figure: data already in it, one specification a layout. */
export interface Figure {
  /** File name without `.svg`, and the id in the page. */
  readonly id: string;
  readonly title: string;
  /** One sentence on how to read it; also its text for those who cannot see it. */
  readonly caption: string;
  draw(layout: Layout): TopLevelSpec;
}

/**
 * Width of the whole figure in pixels, axes included: a column of the page, two of which stand side by side with a gap
 * of 40, or a telephone's.
 */
export const figureSize = (layout: Layout, size: 'full' | 'half' = 'full') => ({
  width: layout === 'narrow' ? 364 : size === 'full' ? 976 : 468,
  autosize: { type: 'fit' as const, contains: 'padding' as const },
});

/** The x of a figure over steps up to `last`: ticks at whole steps, which Vega-Lite's own `tickMinStep` cannot ask for. */
export function stepAxis(last: number, count = 6) {
  const end = Math.max(1, last);
  const rough = Math.max(1, end / count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const apart = power * ([1, 2, 5].find((times) => times * power >= rough) ?? 10);
  const values = Array.from({ length: Math.floor(end / apart) + 1 }, (_, i) => i * apart);
  return {
    field: 'step',
    type: 'quantitative' as const,
    title: 'step',
    axis: { values, tickCount: values.length, format: ',d' },
    scale: { domain: [0, end], nice: false },
  };
}
