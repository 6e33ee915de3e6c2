import { join } from 'node:path';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import type { RunConfig } from '../../src/config/schema.ts';
import * as strategies from '../../src/strategies.ts';

const fixture = (path: string) => new URL(`../../fixtures/${path}`, import.meta.url).pathname;

/** A run of a few seconds on a tiny random model; sections are merged into it. */
export function tinyRun(output: string, changes: Record<string, Record<string, unknown>> = {}): RunConfig {
  const base: Record<string, Record<string, unknown>> = {
    model: { path: fixture('models/llama') },
    data: {
      task: 'text',
      train: join(fixture('traces'), 'text.jsonl'),
      dev: join(fixture('traces'), 'dev.jsonl'),
      maxLength: 32,
    },
    adapter: { strategy: 'lora' },
    budget: { rank: 2 },
    train: { steps: 12, batchSize: 4, learningRate: 2e-2, evalEvery: 4, checkpointEvery: 3 },
    runtime: { threads: 1 },
  };
  const sections = new Set([...Object.keys(base), ...Object.keys(changes)]);
  const merged = Object.fromEntries([...sections].map((key) => [key, { ...base[key], ...changes[key] }]));
  return resolveRunConfig({ ...merged, output }, { strategies });
}
