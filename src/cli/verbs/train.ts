import type { Command } from 'commander';
import { AloraError } from '../../errors.ts';
import type { Reporter } from '../../training/reporter.ts';
import { interruption } from '../interruption.ts';
import { example, jsonOption, openRunFile, printJson, setOption } from '../options.ts';
import { shortPath } from '../paths.ts';
import { printPlan } from '../plan.ts';
import { trainScreen } from '../screen.ts';

interface Options {
  readonly set: readonly string[];
  readonly resume?: boolean;
  readonly force?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

export function addVerb(program: Command): void {
  const command = program
    .command('train')
    .argument('<run.yaml>', 'run file')
    .description('train an adapter')
    .addOption(setOption())
    .option('--resume', 'go on from the newest checkpoint in the output folder')
    .option('--force', 'delete what an earlier run wrote in the output folder')
    .option('--dry-run', 'print the resolved plan and the budget, write nothing')
    .addOption(jsonOption())
    .action((file: string, options: Options) => runTraining(file, options));
  example(command, 'npx onnx-alora train run.yaml --set train.learningRate=5e-4 --set output=runs/second');
}

async function runTraining(file: string, options: Options): Promise<void> {
  if (options.resume && options.force)
    throw new AloraError('usage', 'USAGE_CONFLICT', '--resume and --force exclude each other', {
      fix: '--resume goes on with the run in the output folder, --force deletes it',
    });
  const { config, strategies, named } = await openRunFile(file, options.set);
  const { plan, train } = await import('../../index.ts');
  if (options.dryRun) {
    const info = await named(plan(config, { strategies }));
    if (options.json) printJson({ config, plan: info });
    else printPlan(config, info, process.stdout);
    return;
  }
  const { signal, release } = interruption('saving a checkpoint after this step');
  const screen = options.json ? undefined : trainScreen(process.stdout, process.stderr);
  const quiet: Reporter = { onWarning: (message) => process.stderr.write(`warning: ${message}\n`) };
  let ran = false;
  const watch: Reporter = {
    onRunStart: () => {
      ran = true;
    },
  };
  try {
    const training = train(config, {
      strategies,
      resume: options.resume,
      force: options.force,
      reporters: [screen ?? quiet, watch],
      signal,
      command: `onnx-alora ${process.argv.slice(2).join(' ')}`,
    });
    const result = await named(training);
    // --resume changes nothing in a finished run.
    if (ran) await drawReport(config.output);
    if (options.json) printJson(result);
    else if (!ran) process.stdout.write(`${shortPath(config.output)} is finished already: nothing to do\n`);
  } finally {
    screen?.close();
    release();
  }
}

/** The report of the finished run. The run is whole without it, so a failure to draw is a warning. */
async function drawReport(folder: string): Promise<void> {
  const { writeReport } = await import('../../report/index.ts');
  try {
    await writeReport(folder);
  } catch (cause) {
    process.stderr.write(`warning: report.html was not written: ${(cause as Error).message}\n`);
  }
}
