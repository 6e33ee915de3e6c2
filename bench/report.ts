import { mkdirSync, writeFileSync } from 'node:fs';
import { arch, cpus, platform, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import type { Figure } from '../src/report/figures/figure.ts';
import { renderSvg } from '../src/report/render.ts';
import { versions } from '../src/training/versions.ts';
import { progress } from './table.ts';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  /** Bytes. */
  readonly memory: number;
  readonly system: string;
}

/** What figures depend on beside the code. */
export function facts(threads: number, peers: Readonly<Record<string, string>>) {
  const machine: Machine = {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memory: totalmem(),
    system: `${platform()} ${arch()}`,
  };
  return { date: new Date().toISOString(), machine, threads, versions: { ...versions(), ...peers } };
}

export function writeReport(file: string, report: unknown): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
}

/** Writes figures as SVG into a folder. */
export async function writeFigures(folder: string, figures: readonly Figure[]): Promise<void> {
  mkdirSync(folder, { recursive: true });
  for (const figure of figures) {
    const file = join(folder, `${figure.id}.svg`);
    writeFileSync(file, await renderSvg(figure.draw('wide')));
    progress(`wrote ${file}`);
  }
}
