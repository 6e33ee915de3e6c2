import { cpus, totalmem } from 'node:os';
import type { TrainingState } from './checkpoint.ts';
import type { PreparedRun } from './prepareRun.ts';
import type { RunResult } from './reporter.ts';
import { versions } from './versions.ts';

/** What the state of a run does not tell. */
type Outcome = Pick<RunResult, 'command' | 'budget' | 'ranks' | 'test' | 'samples' | 'peakMemory'>;

/** `result.json` of a run that has ended in this state. */
export function resultOf(
  { strategy, config, totalSteps, hashes }: PreparedRun,
  state: TrainingState,
  { command, budget, ranks, test, samples, peakMemory }: Outcome,
): RunResult {
  const { best, firstDev, bestDev, lastDev } = state.evaluation;
  return {
    strategy: strategy.name,
    seed: config.train.seed,
    configHash: hashes.configuration!,
    command,
    budget,
    ranks,
    steps: state.step,
    totalSteps,
    stoppedEarly: state.step < totalSteps,
    bestStep: best.step,
    allocations: state.allocations,
    ...(firstDev && bestDev && lastDev ? { dev: { before: firstDev, best: bestDev, last: lastDev } } : {}),
    ...(test ? { test } : {}),
    samples,
    seconds: state.seconds,
    secondsAllocating: state.secondsAllocating,
    peakMemory,
    versions: versions(),
    machine: { cpu: cpus()[0]?.model ?? 'unknown', cores: cpus().length, memory: totalmem() },
    hashes,
  };
}
