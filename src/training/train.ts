import { existsSync, readFileSync } from 'node:fs';
import type { RunConfig } from '../config/schema.ts';
import type { StrategyRegistry } from './assemble.ts';
import { requireSameConfiguration } from './checkpoint.ts';
import { claimFolder, refuseClaimed } from './lock.ts';
import { prepareRun } from './prepareRun.ts';
import type { RunResult } from './reporter.ts';
import { RunFolder } from './runFolder.ts';
import { type LoopOptions, TrainingLoop } from './trainingLoop.ts';

/** What `train` is told beside the run file. */
export interface TrainOptions extends LoopOptions {
  readonly strategies: StrategyRegistry;
  /** Replace what an earlier run wrote into the output folder. */
  readonly force?: boolean;
}

/**
 * Trains an adapter as the configuration says and returns what result.json holds. The output folder is written
 * as docs/run-folder.md describes; an error before step 1 leaves none behind.
 */
export async function trainRun(config: RunConfig, options: TrainOptions): Promise<RunResult> {
  // Loading the model takes long: what is known to be in use is refused before.
  refuseClaimed(config.output);
  return trainWith(config, options, () => claimFolder(config.output));
}

/** The same for a caller that holds the lock of the output folder, `.lock`, itself. */
export async function trainClaimed(config: RunConfig, options: TrainOptions): Promise<RunResult> {
  return trainWith(config, options, async () => () => {});
}

async function trainWith(
  config: RunConfig,
  options: TrainOptions,
  claim: () => Promise<() => void>,
): Promise<RunResult> {
  const folder = new RunFolder(config.output);
  const finished = () => {
    if (!options.resume || !folder.isFinished) return undefined;
    const result = JSON.parse(readFileSync(folder.file('result.json'), 'utf8')) as RunResult;
    requireSameConfiguration(folder, result, config);
    return result;
  };
  folder.check(options);
  const earlier = finished();
  if (earlier) return earlier;
  const run = await prepareRun(config, options.strategies);
  try {
    await run.runtime.open();
    const [isEmpty, made] = [folder.isEmpty, !existsSync(folder.path)];
    const release = await claim();
    try {
      // Another process may have come first and be done by now.
      folder.check(options);
      return (
        finished() ?? (await new TrainingLoop(run, folder, options).run(() => isEmpty && folder.undo(made)))
      );
    } finally {
      release();
    }
  } finally {
    await run.close();
  }
}
