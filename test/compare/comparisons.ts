import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';

export const fixture = (path: string) => new URL(`../../fixtures/${path}`, import.meta.url).pathname;

type Sections = Readonly<Record<string, unknown>>;

/** A comparison of runs of a second each on a tiny random model; sections are merged into it. */
export function tinyComparison(output: string, changes: Sections = {}): Record<string, unknown> {
  const base: Record<string, unknown> = {
    model: { path: fixture('models/llama') },
    data: {
      task: 'text',
      train: join(fixture('traces'), 'text.jsonl'),
      dev: join(fixture('traces'), 'dev.jsonl'),
      maxLength: 16,
      maxRows: { dev: 8 },
    },
    strategies: ['lora', { strategy: 'alora', rounds: 2, ranksPerRound: 2, examples: 4 }],
    seeds: [0, 1],
    budget: { rank: 2 },
    train: { steps: 8, batchSize: 4, learningRate: 2e-2, evalEvery: 4, checkpointEvery: 2, sample: false },
    output,
  };
  const section = (value: unknown): value is Sections =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  for (const [key, value] of Object.entries(changes))
    base[key] = section(value) && section(base[key]) ? { ...base[key], ...value } : value;
  return base;
}

/** Writes it as compare.yaml beside the output folder, and returns the path. */
export function writeComparison(folder: string, changes: Sections = {}): string {
  const path = join(folder, 'compare.yaml');
  writeFileSync(path, stringify(tinyComparison('out', changes)));
  return path;
}
