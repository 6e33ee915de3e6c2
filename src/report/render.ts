import type { TopLevelSpec } from 'vega-lite';
import { textWidth } from './textWidth.ts';
import { figureConfig } from './theme.ts';

/** What vega exports for measuring text, which its types leave out. */
interface VegaText {
  readonly textMetrics: { height(item: unknown): number; width(item: unknown, text: unknown): number };
}

/**
 * Draws a Vega-Lite specification as an SVG document, without a browser and without a network. The same specification
 * always gives the same bytes. Vega is loaded here and nowhere else: no other command pays for it.
 */
export async function renderSvg(spec: TopLevelSpec): Promise<string> {
  const [{ compile }, vega] = await Promise.all([import('vega-lite'), import('vega')]);
  const { textMetrics } = vega as unknown as VegaText;
  textMetrics.width = (item, text) => textWidth(String(text ?? ''), textMetrics.height(item));
  const view = new vega.View(vega.parse(compile(spec, { config: figureConfig }).spec), {
    renderer: 'none',
    logLevel: vega.Error,
  });
  try {
    return renumbered(rounded(await view.toSVG()));
  } finally {
    view.finalize();
  }
}

/** Coordinates to a hundredth of a pixel: half the size, and nothing to see. Texts stay as they are. */
function rounded(svg: string): string {
  return svg.replace(/ (?:d|transform|x|y|x2|y2|width|height)="[^"]*"/g, (attribute) =>
    attribute.replace(/-?\d+\.\d{3,}(?:e-?\d+)?/g, (number) =>
      String(Math.round(Number(number) * 100) / 100),
    ),
  );
}

/** Clip paths counted from 1 in every figure: vega counts them over all that a process draws. */
function renumbered(svg: string): string {
  const names = [...new Set(svg.match(/\bid="clip\d+"/g))];
  return svg.replace(/\b(id="|url\(#)clip(\d+)/g, (_, before: string, number: string) => {
    const index = names.indexOf(`id="clip${number}"`);
    return `${before}clip${index + 1}`;
  });
}

/** Natural width of a drawn figure in CSS pixels. */
export const widthOf = (svg: string): number => Number(/viewBox="0 0 ([\d.]+) /.exec(svg)?.[1] ?? 0);

/**
 * The figure for use inside the page: scales with its column, is one image to a screen reader, and its ids (clip paths)
 * cannot meet those of another figure.
 */
export function inlineSvg(svg: string, id: string, label: string): string {
  const escaped = label.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/"/g, '&quot;');
  return svg
    .replace(/<svg[^>]*?(viewBox="[^"]*")[^>]*>/, `<svg $1 role="img" aria-label="${escaped}">`)
    .replace(/\bid="([^"]+)"/g, `id="${id}-$1"`)
    .replace(/url\(#([^)]+)\)/g, `url(#${id}-$1)`);
}
