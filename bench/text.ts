import Table from 'cli-table3';
import type { Spread } from './spread.ts';

export type Cell = string | number;

/** A table for the terminal: the first column to the left, numbers to the right. */
export function grid(head: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const table = new Table({
    head: [...head],
    style: { head: [], border: [] },
    colAligns: head.map((_, i) => (i === 0 ? 'left' : 'right')),
    chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
  });
  table.push(...rows.map((row) => [...row]));
  return table.toString();
}

export const seconds = (value: number): string => `${value.toFixed(2)} s`;
export const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;
export const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

/** `2.16 (2.05 .. 2.31)`; the range is left out where there is but one value. */
export function withRange({ median, low, high }: Spread, digits = 2): string {
  const range = low === high ? '' : ` (${low.toFixed(digits)} .. ${high.toFixed(digits)})`;
  return `${median.toFixed(digits)}${range}`;
}
