import { cpus, totalmem } from 'node:os';
import type { TrainingState } from './checkpoint.ts';
import type { PreparedRun } from './prepareRun.ts';
import type { RunResult, SampleEvent } from './reporter.ts';
import { versions } from './versions.ts';

/** What the state of a run does not tell. */
type Outcome = Pick<
  RunResult,
  'command' | 'budget' | 'ranks' | 'stoppedEarly' | 'test' | 'seconds' | 'peakMemory'
>;

/** `result.json` of a run that has ended in this state. */
export function resultOf(
  { strategy, config, totalSteps, hashes }: PreparedRun,
  state: TrainingState,
  { command, budget, ranks, stoppedEarly, test, seconds, peakMemory }: Outcome,
): RunResult {
  return {
    strategy: strategy.name,
    seed: config.train.seed,
    configHash: hashes.configuration!,
    command,
    budget,
    ranks,
    steps: state.step,
    totalSteps,
    stoppedEarly,
    bestStep: state.best.step,
    allocations: state.allocations,
    ...(state.firstDev && state.lastDev
      ? { dev: { before: state.firstDev, best: state.bestDev ?? state.lastDev, last: state.lastDev } }
      : {}),
    ...(test ? { test } : {}),
    samples: state.samples as SampleEvent[],
    seconds,
    secondsAllocating: state.secondsAllocating,
    peakMemory,
    versions: versions(),
    machine: { cpu: cpus()[0]?.model ?? 'unknown', cores: cpus().length, memory: totalmem() },
    hashes,
  };
}
