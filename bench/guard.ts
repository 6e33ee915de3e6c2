import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import type { Machine } from './report.ts';
import type { Spread } from './spread.ts';
import { progress } from './table.ts';

/** A ratio may be this much of the stored one; what is less has fallen. */
const least = 0.85;

type Ratios = Readonly<Record<string, Spread>>;

/** A file that `--store` or `--out` wrote, as far as the guard reads it. */
interface Stored {
  readonly machine: Machine;
  readonly ratios: Ratios;
}

function read(file: string): Stored {
  return JSON.parse(readFileSync(file, 'utf8')) as Stored;
}

/**
 * Compares ratios with those of an earlier run, prints each, and says whether none has fallen by more than 15 %. A run
 * that shares no ratio with the file has shown nothing, and does not pass.
 */
export function check(ratios: Ratios, machine: Machine, file: string): boolean {
  if (!existsSync(file)) {
    progress(`check: there is no ${file}; --store writes it`);
    return false;
  }
  const stored = read(file);
  if (stored.machine.cpu !== machine.cpu || stored.machine.cores !== machine.cores)
    progress(
      `check: ${file} was measured on another machine (${stored.machine.cpu}, ${stored.machine.cores} cores)`,
    );
  const shared = Object.entries(ratios).filter(([name]) => stored.ratios[name]);
  for (const [name, { median }] of shared) {
    const before = stored.ratios[name]!.median;
    const change = `${median.toFixed(2)}, stored ${before.toFixed(2)} (${(100 * (median / before - 1)).toFixed(0)} %)`;
    progress(`check: ${median < least * before ? 'FELL' : 'ok  '}  ${name}: ${change}`);
  }
  if (shared.length === 0) progress(`check: nothing to compare: no ratio of this run is in ${file}`);
  return (
    shared.length > 0 && shared.every(([name, { median }]) => median >= least * stored.ratios[name]!.median)
  );
}

/** Writes ratios for `check`; what the file has from the same machine and was not measured now stays. */
export function store(
  ratios: Ratios,
  facts: { readonly machine: Machine; readonly [fact: string]: unknown },
  file: string,
): void {
  const before = existsSync(file) ? read(file) : undefined;
  const kept =
    before && before.machine.cpu === facts.machine.cpu && before.machine.cores === facts.machine.cores;
  const digits = (_: string, value: unknown) =>
    typeof value === 'number' ? Number(value.toPrecision(4)) : value;
  const all = { ...(kept ? before.ratios : {}), ...ratios };
  const rounded: unknown = JSON.parse(JSON.stringify(all), digits);
  writeFileSync(file, `${JSON.stringify({ ...facts, ratios: rounded }, null, 2)}\n`);
}
