/** Advance widths of Helvetica and its metric copies, in thousandths of the font size, by the characters that have them. */
const advances: readonly (readonly [width: number, characters: string])[] = [
  [191, "'"],
  [222, 'ijl'],
  [278, ' !,./:;I[\\]ft|'],
  [333, '()-`r'],
  [500, 'cksvxyzJ'],
  [556, '#$0123456789?L_abdeghnopqu'],
  [584, '+<=>~\u2212'],
  [611, 'FTZ'],
  [667, '&ABEKPSVXY'],
  [722, 'CDHNRUw'],
  [778, 'GOQ'],
  [833, 'Mm'],
  [889, '%'],
  [944, 'W'],
];

const widths = new Map(
  advances.flatMap(([width, characters]) => [...characters].map((c) => [c, width] as const)),
);

/**
 * Width of a text in pixels. Vega lays out axes and legends by it: measured by this table, a figure does not depend on
 * whether a canvas package happens to be installed, and has no room for letters that are not there.
 */
export function textWidth(text: string, fontSize: number): number {
  let width = 0;
  for (const character of text) width += widths.get(character) ?? 556;
  return (width / 1000) * fontSize;
}
