import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringifyRunConfig } from '../config/write.ts';
import { AloraError } from '../errors.ts';
import { claimFolder } from '../training/lock.ts';
import { planRun } from '../training/prepareRun.ts';
import type { RunInfo } from '../training/reporter.ts';
import { versions } from '../training/versions.ts';
import { checkTreatment } from './checks.ts';
import { collectRun, columnsOf, resultOf } from './collect.ts';
import { planRecord, requireBudget, requireEqualSteps } from './contract.ts';
import { csvOf } from './csv.ts';
import { expand, labelsOf, outputOf, seedFolder, type Variant } from './expand.ts';
import { baselineOf, type CompareFile } from './file.ts';
import { type Fingerprint, fingerprinter } from './fingerprint.ts';
import type { CompareRecord, PlanRecord, SearchRecord } from './record.ts';
import type { Failure, Job, JobEvents, Runner } from './runner.ts';
import { searchAll, searchTrials } from './search.ts';
import { compareVariant } from './summary.ts';
import { jobsIn, sortJobs, type Work, workOf, writeIfChanged } from './work.ts';

/** What a comparison tells the outside while it goes on. */
export interface CompareReporter extends JobEvents {
  /** Before anything runs: the runs that there are and those that are already done. */
  onQueue?(jobs: readonly Job[], finished: readonly Job[]): void;
  onNotice?(message: string): void;
  /** Where everything is written, absolute. */
  onOutput?(folder: string): void;
}

/** How `compare` runs a comparison. */
export interface CompareOptions {
  readonly runner: Runner | ((model: RunInfo['model'], threads: number) => Runner);
  readonly reporter?: CompareReporter;
  readonly signal?: AbortSignal;
  /** Runs again what diverged; other failures are always tried again. */
  readonly retry?: boolean;
  /** For the record. */
  readonly command?: string;
}

/** Milliseconds between two records while runs go on. */
const recordInterval = 20_000;

/** A comparison before it runs. */
export interface ComparePlan {
  readonly output: string;
  readonly labels: readonly string[];
  readonly baseline: string;
  readonly variants: readonly Variant[];
  readonly plans: readonly PlanRecord[];
  readonly info: RunInfo;
  readonly jobs: readonly Job[];
  readonly finished: readonly Job[];
}

/**
 * Resolves a comparison and checks its budget contract; writes nothing. With `search:`, the first value of each path
 * stands for what the search will choose.
 */
export async function planComparison(
  file: CompareFile,
  fingerprint: Fingerprint = fingerprinter(),
): Promise<ComparePlan> {
  const labels = labelsOf(file.entries);
  const baseline = baselineOf(file, labels);
  const provisional = searchTrials(file.search)[0] ?? {};
  const variants = await expand(file, fingerprint, () => provisional);
  const output = outputOf(variants);
  const { plans, info } = await planAll(file, variants, labels, earlierPlans(output));
  const work = workOf(output, file, variants, plans);
  const { finished } = sortJobs(work, false);
  return {
    output,
    labels,
    baseline,
    variants,
    plans,
    info,
    jobs: jobsIn(work),
    finished: jobsIn(finished),
  };
}

/**
 * Runs a comparison: every method with every seed at every point of the grid, what has finished left alone and what
 * was interrupted resumed. Writes compare.json and compare.csv into the output folder after every run.
 *
 * Throws `config` errors before anything runs: those of a run file, COMPARE_BUDGET and COMPARE_STEPS; `interrupted`
 * when the signal aborts. Failed runs are part of the record that it returns, not errors.
 */
export async function runComparison(file: CompareFile, options: CompareOptions): Promise<CompareRecord> {
  const { reporter = {}, signal = new AbortController().signal } = options;
  const fingerprint = fingerprinter();
  const plan = await planComparison(file, fingerprint);
  const { output, labels, info } = plan;
  const release = await claimFolder(output);
  try {
    reporter.onOutput?.(output);
    const makeRunner = (): Runner =>
      typeof options.runner === 'function' ? options.runner(info.model, info.threads) : options.runner;
    let runner: Runner | undefined;
    let ran = false;
    const runAll = async (work: readonly Work[], onEnd: () => void = () => {}) => {
      const { waiting, finished } = sortJobs(work, options.retry === true);
      for (const { job, config } of waiting)
        writeIfChanged(join(job.folder, 'run.yaml'), stringifyRunConfig(config, job.folder));
      reporter.onQueue?.(jobsIn(work), jobsIn(finished));
      if (waiting.length === 0) return;
      ran = true;
      runner ??= makeRunner();
      const end = (job: Job, failure?: Failure) => {
        onEnd();
        reporter.onEnd?.(job, failure);
      };
      await runner.run(jobsIn(waiting), { ...reporter, onEnd: end }, signal);
      if (signal.aborted)
        throw new AloraError('interrupted', 'INTERRUPTED', 'Interrupted; the runs are saved', {
          where: output,
          fix: 'Run the same command again: it goes on where it was.',
        });
    };

    let { variants, plans } = plan;
    let searches: (SearchRecord | undefined)[] = variants.map(() => undefined);
    if (Object.keys(file.search).length > 0) {
      const searched = await searchAll(file, plan, fingerprint, runAll);
      ({ variants, searches } = searched);
      ({ plans } = await planAll(file, variants, labels, earlierPlans(output)));
      for (const [i, search] of searches.entries())
        for (const path of search?.atEdge ?? [])
          reporter.onNotice?.(
            `${labels[variants[i]!.method]}: the search chose the last value of ${path}; the best may lie beyond`,
          );
    }
    requireEqualSteps(variants, plans, labels);
    let recordedAt = 0;
    // A call that runs nothing leaves the record as it is.
    const command = () => (ran ? undefined : earlierRecord(output)?.command) ?? options.command ?? '';
    const record = () => {
      const current = recordOf(file, { ...plan, variants, plans }, searches, command());
      writeIfChanged(join(output, 'compare.json'), `${JSON.stringify(current, null, 1)}\n`);
      writeIfChanged(join(output, 'compare.csv'), csvOf(current));
      recordedAt = performance.now();
      return current;
    };
    record();
    // Every record reads all runs again: with many short ones that would be most of the work.
    await runAll(workOf(output, file, variants, plans), () => {
      if (performance.now() - recordedAt > recordInterval) record();
    });
    return record();
  } finally {
    release();
  }
}

/** Plans every variant and checks it against the contract; what an earlier call recorded is not planned again. */
async function planAll(
  file: CompareFile,
  variants: readonly Variant[],
  labels: readonly string[],
  earlier: ReadonlyMap<string, PlanRecord>,
): Promise<{ plans: PlanRecord[]; info: RunInfo }> {
  const plans: PlanRecord[] = [];
  let info: RunInfo | undefined;
  for (const variant of variants) {
    const known = earlier.get(variant.folder);
    const planned = known && info ? undefined : await planRun(variant.config, file.strategies);
    info ??= planned;
    const plan = known ?? planRecord(planned!);
    requireBudget(labels[variant.method]!, variant, plan);
    plans.push(plan);
  }
  return { plans, info: info! };
}

/** What an earlier call recorded; a record that cannot be read is written anew. */
function earlierRecord(output: string): CompareRecord | undefined {
  const path = join(output, 'compare.json');
  try {
    return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as CompareRecord) : undefined;
  } catch {
    return undefined;
  }
}

/** Plans of an earlier call, by content-addressed folder. */
const earlierPlans = (output: string): Map<string, PlanRecord> =>
  new Map(earlierRecord(output)?.variants.map(({ folder, plan }) => [folder, plan]));

function recordOf(
  file: CompareFile,
  { output, labels, baseline, variants, plans, info }: ComparePlan,
  searches: readonly (SearchRecord | undefined)[],
  command: string,
): CompareRecord {
  const methods = file.entries.map(({ strategy, options }, i) => ({ label: labels[i]!, strategy, options }));
  const measured = variants.map(({ method, point, folder }, i) => ({
    method,
    point,
    folder,
    plan: plans[i]!,
    ...(searches[i] ? { search: searches[i] } : {}),
    runs: file.seeds.map((seed) => collectRun(output, seedFolder({ folder }, seed), seed, plans[i]!.modules)),
  }));
  const runs = measured.flatMap((variant) => variant.runs);
  const columns = columnsOf(runs);
  const rates = new Set(variants.map(({ config }) => config.train.learningRate));
  const first = runs.find(({ state }) => state === 'finished');
  const result = first && resultOf(join(output, first.folder));
  const { configuration: _configuration, ...hashes } = result?.hashes ?? {};
  return {
    format: 1,
    command,
    source: file.source,
    model: info.model,
    task: info.task,
    data: info.data,
    learningRate: rates.size === 1 && !('train.learningRate' in file.search) ? [...rates][0]! : null,
    seeds: file.seeds,
    baseline,
    grid: file.grid,
    searched: file.search,
    columns,
    methods,
    variants: measured.map((variant) => ({
      ...variant,
      ...compareVariant(variant, measured, columns, labels.indexOf(baseline)),
    })),
    checks: checkTreatment(output, measured, methods),
    versions: result?.versions ?? versions(),
    ...(result ? { machine: result.machine } : {}),
    hashes,
  };
}
