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
