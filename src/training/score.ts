import type { HostTrainer, ScoreTable } from '../adapters/strategy.ts';
import { writeFileAtomic } from '../atomicFiles.ts';
import type { RunConfig } from '../config/schema.ts';
import { AloraError } from '../errors.ts';
import { fetchModel, poolingOf } from './assemble.ts';
import { loadRunData } from './data.ts';
import { ReferenceHost } from './host.ts';
import { openAdapted } from './openAdapted.ts';

/** How the importance of a rank is computed; docs/strategies.md compares them. */
export type Scorer = 'exact' | 'screened' | 'taylor' | 'sensitivity';

/** What `score` scores, and how. */
export interface ScoreOptions {
  /** Adapter folder in PEFT format: ours, or one that PEFT made. */
  readonly adapter: string;
  /** Default: exact. */
  readonly scorer?: Scorer;
  /** Dev rows, drawn once with the seed; default 32. */
  readonly examples?: number;
  /** Writes the table to this file. */
  readonly out?: string;
}

/** Scores the ranks that a host holds; ALoRA's, passed in because the core knows no plug-in. */
export type ScoreRanks = (
  host: HostTrainer,
  request: { readonly scorer?: Scorer; readonly examples?: number },
) => Promise<ScoreTable>;

/** The scores file of an adapter, and what it took. */
export interface ScoreResult extends ScoreTable {
  readonly seconds: number;
}

/** Importance of every rank of an adapter on the dev rows of a run. The adapter is only read. */
export async function scoreAdapter(
  config: RunConfig,
  score: ScoreRanks,
  options: ScoreOptions,
): Promise<ScoreResult> {
  const opened = await fetchModel({ ...config.model, device: config.runtime.device });
  try {
    const data = await loadRunData(config, opened);
    if (data.dev.length === 0)
      throw new AloraError('config', 'SPLIT_MISSING', 'The run file names no dev rows', {
        where: 'data.dev',
        fix: 'Set data.dev: ranks are scored on dev rows.',
      });
    const { runtime, adapters } = openAdapted(opened, {
      ...config.runtime,
      compute: config.model.compute,
      adapter: options.adapter,
      classifier:
        data.classes === undefined
          ? undefined
          : { classes: data.classes, pooling: poolingOf(config, opened.backbone) },
    });
    const host = new ReferenceHost({
      runtime,
      adapters,
      totalSteps: 0,
      stepsPerEpoch: 1,
      seed: config.train.seed,
      dev: data.dev,
      padId: data.padId,
      batchSize: config.train.batchSize,
      nextHeldBack: () => {
        throw new RangeError('a finished adapter has no held-back rows');
      },
      onAllocation: () => {},
    });
    const begun = performance.now();
    const request = { scorer: options.scorer, examples: options.examples };
    const table = await score(host, request).finally(() => runtime.close());
    const seconds = (performance.now() - begun) / 1000;
    if (options.out !== undefined) writeFileAtomic(options.out, `${JSON.stringify(table)}\n`);
    return { ...table, seconds };
  } finally {
    opened.workspace.close();
  }
}
