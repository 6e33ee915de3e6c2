import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../atomicFiles.ts';
import type { RunConfig } from '../config/schema.ts';
import { seedFolder, type Variant, withSeed } from './expand.ts';
import type { CompareFile } from './file.ts';
import { readFailure, readResult } from './job.ts';
import type { PlanRecord } from './record.ts';
import type { Job } from './runner.ts';

/** A job and the run file that it starts from. */
export interface Work {
  readonly job: Job;
  readonly config: RunConfig;
}

/** Runs of all variants, the seeds of a variant one after the other. */
export function workOf(
  output: string,
  file: CompareFile,
  variants: readonly Variant[],
  plans: readonly PlanRecord[],
): Work[] {
  return variants.flatMap((variant, i) =>
    file.seeds.map((seed): Work => {
      const id = seedFolder(variant, seed);
      return {
        job: { id, folder: join(output, id), kind: 'run', steps: plans[i]!.totalSteps },
        config: withSeed(output, variant, seed),
      };
    }),
  );
}

export const jobsIn = (work: readonly Work[]): Job[] => work.map(({ job }) => job);

/** What has to run: all but the finished, and but what diverged, which it would do again. */
export function sortJobs(work: readonly Work[], retry: boolean): { waiting: Work[]; finished: Work[] } {
  const isDone = ({ job }: Work) =>
    readResult(job) !== undefined || (!retry && readFailure(job.folder)?.kind === 'diverged');
  return { waiting: work.filter((one) => !isDone(one)), finished: work.filter(isDone) };
}

/** Leaves the file, and the time that it was written, alone where it says the same already. */
export function writeIfChanged(path: string, content: string): void {
  if (existsSync(path) && readFileSync(path, 'utf8') === content) return;
  writeFileAtomic(path, content);
}
