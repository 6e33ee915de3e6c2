import type { Figure } from '../src/report/figures/figure.ts';
import type { BenchOptions } from './options.ts';
import type { Spread } from './spread.ts';

/** What is measured under one name of `--tables`. */
export interface TableResult {
  /** For the report; plain JSON. */
  readonly data: unknown;
  /** By name: what the guard compares. Larger is better. */
  readonly ratios?: Readonly<Record<string, Spread>>;
  /** Written as SVG beside the report. */
  readonly figures?: readonly Figure[];
  /** Of what took part beside this package. */
  readonly versions?: Readonly<Record<string, string>>;
}

/** A word of `--tables`. */
export interface BenchTable {
  /** What it measures and roughly how long that takes, in a line for --help. */
  readonly about: string;
  /** Measures, and shows what is ready as text. */
  measure(options: BenchOptions, show: (text: string) => void): TableResult | Promise<TableResult>;
}

/** Where a measurement stands: on standard error, which no report is read from. */
export function progress(text: string): void {
  process.stderr.write(`${text}\n`);
}
