import Table from 'cli-table3';
import type { Colours } from './terminal.ts';

/** A table of plain columns, no borders; numbers are strings already, aligned right where `align` says `r`. */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  align: string,
  colours: Colours,
): string {
  const none = [
    'top',
    'top-mid',
    'top-left',
    'top-right',
    'bottom',
    'bottom-mid',
    'bottom-left',
    'bottom-right',
  ];
  const inner = ['left', 'left-mid', 'mid', 'mid-mid', 'right', 'right-mid'];
  const printed = new Table({
    head: head.map((cell) => colours.bold(cell)),
    colAligns: [...align].map((side) => (side === 'r' ? 'right' : 'left')),
    chars: { ...Object.fromEntries([...none, ...inner].map((name) => [name, ''])), middle: '  ' },
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  });
  printed.push(...rows.map((row) => [...row]));
  return printed.toString().replace(/ +$/gm, '');
}
