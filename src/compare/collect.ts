import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { layersOfSaved, readRankCounts } from '../adapters/packAdapter.ts';
import { weightsFile } from '../adapters/peft.ts';
import { readSafetensors } from '../adapters/safetensors.ts';
import type { ModuleInfo, RunResult, StepEvent } from '../training/reporter.ts';
import { RunFolder } from '../training/runFolder.ts';
import { readFailure } from './job.ts';
import type { Column, RunRecord } from './record.ts';
import { median } from './statistics.ts';

/** What one run left in its folder, as a record. */
export function collectRun(
  output: string,
  folder: string,
  seed: number,
  modules: readonly ModuleInfo[],
): RunRecord {
  const path = join(output, folder);
  const result = resultOf(path);
  if (!result) {
    const failure = readFailure(path);
    return failure ? { seed, folder, state: 'failed', failure } : { seed, folder, state: 'open' };
  }
  const steps = stepsOf(path);
  const ms = steps.reduce((sum, step) => sum + step.ms, 0);
  return {
    seed,
    folder,
    state: 'finished',
    steps: result.steps,
    stoppedEarly: result.stoppedEarly,
    bestStep: result.bestStep,
    budget: result.budget,
    recounted: {
      adapter: recount(join(path, 'adapter'), modules),
      best: recount(join(path, 'best'), modules),
    },
    values: valuesOf(result),
    seconds: result.seconds,
    secondsAllocating: result.secondsAllocating,
    peakMemory: result.peakMemory,
    ...(steps.length > 0
      ? {
          stepMs: median(steps.map((step) => step.ms)),
          tokensPerSecond: (1000 * steps.reduce((sum, step) => sum + step.tokens, 0)) / ms,
        }
      : {}),
  };
}

export function resultOf(folder: string): RunResult | undefined {
  const path = join(folder, 'result.json');
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as RunResult) : undefined;
}

export const stepsOf = (folder: string): StepEvent[] =>
  new RunFolder(folder).events().filter((event) => event.event === 'step');

/**
 * Scalars of a saved low-rank adapter: the rows of each lora_A, times what one rank of that module costs (a gate
 * that trained included, which is folded into the factors on saving). A layer that an exporter packed is saved as
 * several, each with its A; it counts once.
 */
function recount(folder: string, modules: readonly ModuleInfo[]): number {
  const cost = new Map(modules.map((module) => [module.name, module.costOfOneRank]));
  const counts = readRankCounts(folder);
  const ranks = new Map<string, number>();
  for (const [name, { dims }] of readSafetensors(join(folder, weightsFile)).tensors) {
    const match = /^(?:base_model\.model\.)?(.+)\.lora_A(?:\.weight)?$/.exec(name);
    if (match) for (const layer of layersOfSaved(match[1]!, dims[0]!, cost, counts)) ranks.set(...layer);
  }
  return [...ranks].reduce((sum, [name, rank]) => sum + rank * (cost.get(name) ?? 0), 0);
}

function valuesOf({ dev, test }: RunResult): Record<string, number> {
  const values: Record<string, number> = {};
  for (const [split, scores] of [
    ['dev', dev?.best],
    ['test', test?.best],
  ] as const) {
    if (!scores) continue;
    values[`${split}.loss`] = scores.loss;
    for (const [metric, value] of Object.entries(scores.metrics))
      if (Number.isFinite(value)) values[`${split}.${metric}`] = value;
  }
  return values;
}

/** Metrics of which less is better; of every other, more is. */
const lowerIsBetter = (metric: string): boolean => /loss|perplexity|error/i.test(metric);

/** The columns that any finished run has: test before dev, metrics before the loss. */
export function columnsOf(runs: readonly RunRecord[]): Column[] {
  const ids = [...new Set(runs.flatMap(({ values }) => Object.keys(values ?? {})))];
  const columns = ids.map((id): Column => {
    const [split, metric] = id.split('.') as ['dev' | 'test', string];
    return { id, split, metric, lowerIsBetter: lowerIsBetter(metric) };
  });
  const place = ({ split, metric }: Column) => (split === 'test' ? 0 : 2) + (metric === 'loss' ? 1 : 0);
  return columns.sort((a, b) => place(a) - place(b));
}
