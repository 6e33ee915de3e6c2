import type { Figure } from './figures/figure.ts';
import { type Html, html, trusted } from './html.ts';
import { inlineSvg, renderSvg, widthOf } from './render.ts';
import { styleSheet } from './style.ts';

/** A figure drawn for the page (both layouts) and for a file of its own (wide, light). */
export interface DrawnFigure {
  readonly id: string;
  readonly file: string;
  readonly markup: Html;
}

export async function drawFigure(figure: Figure): Promise<DrawnFigure> {
  const { id, title, caption } = figure;
  const wide = await renderSvg(figure.draw('wide'));
  const narrow = await renderSvg(figure.draw('narrow'));
  const label = `${title}. ${caption}`;
  const markup = html`<figure id="figure-${id}" style="--w:${widthOf(wide)}px"><h3>${title}</h3><figcaption>${caption}</figcaption>
<div class="wide">${trusted(inlineSvg(wide, `${id}-wide`, label))}</div>
<div class="narrow">${trusted(inlineSvg(narrow, `${id}-narrow`, label))}</div></figure>
`;
  return { id, file: wide, markup };
}

export interface Page {
  readonly title: string;
  readonly header: Html;
  readonly sections: readonly Html[];
  readonly footer: string;
  /** Rules of this page alone, beside the style sheet. */
  readonly rules?: string;
}

/**
 * The whole document. It holds all that it shows: no script, no link, no font or picture from elsewhere, and a policy
 * that would stop the browser from fetching any.
 */
export function renderPage({ title, header, sections, footer, rules = '' }: Page): string {
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>${title}</title>
<style>${trusted(styleSheet + rules)}</style>
</head>
<body>
<main>
${header}
${sections}
<footer>${footer}</footer>
</main>
</body>
</html>
`;
  return page.markup;
}
