import { join } from 'node:path';
import { type Point, points, resolveVariant, seedFolder, type Variant, withSeed } from './expand.ts';
import type { CompareFile } from './file.ts';
import type { Fingerprint } from './fingerprint.ts';
import { readFailure, readResult } from './job.ts';
import type { PlanRecord, SearchRecord, Trial } from './record.ts';
import type { Job } from './runner.ts';
import type { Work } from './work.ts';

/** Settings that a search tries; none where there is no search. */
export const searchTrials = (search: CompareFile['search']): Point[] =>
  Object.keys(search).length > 0 ? points(search) : [];

/** The trial with the lowest dev loss; the first of the list where none finished, so that its failure shows. */
function chooseFrom(file: Pick<CompareFile, 'search' | 'seeds'>, trials: readonly Trial[]): SearchRecord {
  const loss = ({ devLoss }: Trial) => devLoss ?? Number.POSITIVE_INFINITY;
  const best = trials.reduce((a, b) => (loss(b) < loss(a) ? b : a));
  const atEdge = Object.entries(file.search).flatMap(([path, values]) => {
    const index = values.indexOf(best.values[path]);
    return values.length > 2 && (index === 0 || index === values.length - 1) ? [path] : [];
  });
  return { seed: file.seeds[0]!, trials, chosen: best.values, atEdge };
}

/** Searches each variant's values on dev, with the first seed and without the test set. */
export async function searchAll(
  file: CompareFile,
  {
    output,
    variants,
    plans,
  }: {
    readonly output: string;
    readonly variants: readonly Variant[];
    readonly plans: readonly PlanRecord[];
  },
  fingerprint: Fingerprint,
  runAll: (work: readonly Work[]) => Promise<void>,
): Promise<{ variants: Variant[]; searches: SearchRecord[] }> {
  const trials: (Work & { readonly variant: number; readonly values: Point })[] = [];
  for (const [i, variant] of variants.entries())
    for (const values of searchTrials(file.search)) {
      const trial = await resolveVariant(file, { ...variant, chosen: values }, fingerprint);
      const { test: _test, ...data } = trial.config.data;
      const config = withSeed(join(output, 'search'), trial, file.seeds[0]!);
      const id = `search/${seedFolder(trial, file.seeds[0]!)}`;
      const job: Job = { id, folder: join(output, id), kind: 'search', steps: plans[i]!.totalSteps };
      trials.push({
        variant: i,
        values,
        job,
        config: { ...config, data, train: { ...config.train, sample: false } },
      });
    }
  await runAll(trials);
  const searches = variants.map((_, i) =>
    chooseFrom(
      file,
      trials
        .filter((trial) => trial.variant === i)
        .map(({ values, job }) => ({
          values,
          folder: job.id,
          devLoss: readResult(job)?.dev?.best.loss ?? null,
          ...(readFailure(job.folder) ? { failure: readFailure(job.folder) } : {}),
        })),
    ),
  );
  const chosen = await Promise.all(
    variants.map((variant, i) =>
      resolveVariant(file, { ...variant, chosen: searches[i]!.chosen }, fingerprint),
    ),
  );
  return { variants: chosen, searches };
}
