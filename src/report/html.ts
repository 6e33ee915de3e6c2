/** Markup that needs no escaping any more. */
export interface Html {
  readonly markup: string;
}

type Piece = Html | string | number | undefined | false | readonly Piece[];

function render(piece: Piece): string {
  if (piece === undefined || piece === false) return '';
  if (Array.isArray(piece)) return piece.map(render).join('');
  if (typeof piece === 'object') return (piece as Html).markup;
  return String(piece)
    .replace(/&/g, '&amp;')
    .replace(/</g, '&lt;')
    .replace(/>/g, '&gt;')
    .replace(/"/g, '&quot;');
}

/** Template for markup: what is filled in is escaped, unless it is itself made by this template. */
export function html(strings: TemplateStringsArray, ...pieces: Piece[]): Html {
  return { markup: strings.reduce((out, string, i) => out + render(pieces[i - 1]) + string) };
}

/** Markup from elsewhere, taken as it is. */
export const trusted = (markup: string): Html => ({ markup });
