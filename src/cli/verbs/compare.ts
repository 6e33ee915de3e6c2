import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { writeFileAtomic } from '../../atomicFiles.ts';
import type { CompareRecord, RunRecord } from '../../compare/record.ts';
import { AloraError, type ErrorKind } from '../../errors.ts';
import { compareScreen } from '../compareScreen.ts';
import { comparePlanText, compareSummary } from '../compareTable.ts';
import { interruption } from '../interruption.ts';
import { example, integer, jsonOption, printJson, setOption } from '../options.ts';
import { shortPath } from '../paths.ts';
import { coloursFor } from '../terminal.ts';
import { namedByFile } from '../typed.ts';

interface Options {
  readonly set: readonly string[];
  readonly jobs?: number;
  readonly dryRun?: boolean;
  readonly retry?: boolean;
  readonly csv?: string;
  readonly json?: boolean;
}

export function addVerb(program: Command): void {
  const command = program
    .command('compare')
    .argument('<compare.yaml>', 'compare file: a run file with strategies and seeds')
    .description('compare strategies under one budget; a finished run never runs again')
    .addOption(setOption())
    .addOption(
      new Option('--jobs <n>', 'runs at the same time; default: from cores and memory').argParser(integer(1)),
    )
    .option('--dry-run', "print every method's plan against the budget, write nothing")
    .option('--retry', 'run again what diverged')
    .option(
      '--csv <file>',
      'write the runs as CSV there too (compare.csv in the output folder holds the same)',
    )
    .addOption(jsonOption())
    .action((file: string, options: Options) => runCompare(file, options));
  example(command, 'npx onnx-alora compare compare.yaml --jobs 2');
}

async function runCompare(path: string, options: Options): Promise<void> {
  const [{ readCompareFile }, { isKey }, { planComparison, runComparison }, strategies] = await Promise.all([
    import('../../compare/file.ts'),
    import('../../config/jsonSchema.ts'),
    import('../../compare/compare.ts'),
    import('../../strategies.ts'),
  ]);
  const file = await readCompareFile(path, strategies, options.set);
  const named = namedByFile(file.locate, isKey);
  const colours = coloursFor(process.stdout);
  if (options.dryRun) {
    const { plans, variants, labels, ...plan } = await named(planComparison(file));
    if (options.json)
      printJson({
        output: plan.output,
        runs: plan.jobs.map(({ id }) => id),
        finished: plan.finished.map(({ id }) => id),
        methods: variants.map(({ method, point, folder, config }, i) => ({
          label: labels[method],
          point,
          folder,
          plan: plans[i],
          config,
        })),
      });
    else process.stdout.write(`${comparePlanText({ plans, variants, labels, ...plan }, colours)}\n`);
    return;
  }
  const { localRunner, defaultJobs } = await import('../../compare/localRunner.ts');
  const out = options.json ? process.stderr : process.stdout;
  const screen = compareScreen(out, process.stderr);
  const { signal, release } = interruption('every run saves a checkpoint after its step');
  let record: CompareRecord;
  let output = '';
  try {
    const running = runComparison(file, {
      runner: (model, threads) => localRunner({ jobs: options.jobs ?? defaultJobs(model, threads) }),
      reporter: {
        ...screen,
        onOutput: (folder) => {
          output = folder;
        },
      },
      signal,
      retry: options.retry,
      command: `onnx-alora ${process.argv.slice(2).join(' ')}`,
    });
    record = await named(running);
  } finally {
    screen.close();
    release();
  }
  const page = await drawReport(output);
  if (options.csv !== undefined)
    writeFileAtomic(options.csv, readFileSync(join(output, 'compare.csv'), 'utf8'));
  if (options.json) printJson(record);
  else
    process.stdout.write(
      `\n${compareSummary(record, colours)}\n\n${[page, join(output, 'compare.csv')]
        .filter((made) => made !== undefined)
        .map((made) => shortPath(made))
        .join('\n')}\n`,
    );
  const failed = record.variants.flatMap(({ runs }) => runs).filter((run) => run.state !== 'finished');
  if (failed.length > 0) throw failedRuns(failed, record, output);
}

/** The page, unless it is there and newer than the record. A comparison is whole without it: failing is a warning. */
async function drawReport(output: string): Promise<string | undefined> {
  const page = join(output, 'report.html');
  if (existsSync(page) && statSync(page).mtimeMs >= statSync(join(output, 'compare.json')).mtimeMs)
    return page;
  const { writeReport } = await import('../../report/index.ts');
  try {
    return (await writeReport(output)).html;
  } catch (cause) {
    process.stderr.write(`warning: report.html was not written: ${(cause as Error).message}\n`);
    return undefined;
  }
}

function failedRuns(failed: readonly RunRecord[], record: CompareRecord, output: string): AloraError {
  const kinds = new Set(failed.map(({ failure }) => failure?.kind ?? 'crash'));
  const kind = [...kinds].find((one): one is ErrorKind => one !== 'crash') ?? 'model';
  const all = record.variants.flatMap(({ runs }) => runs).length;
  return new AloraError(kind, 'COMPARE_RUNS_FAILED', `${failed.length} of ${all} runs have no result`, {
    where: output,
    fix:
      kinds.size === 1 && kinds.has('diverged')
        ? 'lower train.learningRate, or search it; --retry runs diverged runs again'
        : 'see what each says below; the same command tries them again',
    also: failed.map(
      ({ folder, failure }) => `${folder}: ${failure?.kind ?? 'not run'}: ${failure?.message ?? ''}`,
    ),
  });
}
