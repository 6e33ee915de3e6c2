import type { Command } from 'commander';
import { dataSummary, dataView, firstRows } from '../dataView.ts';
import { example, integer, jsonOption, openRunFile, printJson, setOption } from '../options.ts';
import { coloursFor } from '../terminal.ts';

interface Options {
  readonly set: readonly string[];
  readonly rows: number;
  readonly json?: boolean;
}

export function addVerb(program: Command): void {
  const command = program
    .command('data')
    .argument('<run.yaml>', 'run file')
    .description('show rows as the model sees them, what of them is trained, and what was left out')
    .option('--rows <n>', 'rows to show', integer(0), 3)
    .addOption(setOption())
    .addOption(jsonOption())
    .action((file: string, options: Options) => showData(file, options));
  example(command, 'npx onnx-alora data run.yaml --rows 10');
}

async function showData(file: string, { set, rows, json }: Options): Promise<void> {
  const { config, named } = await openRunFile(file, set);
  const [{ fetchModel }, { loadRunData }] = await Promise.all([
    import('../../training/assemble.ts'),
    import('../../training/data.ts'),
  ]);
  const model = await named(fetchModel(config.model));
  try {
    const { splits, tokenizer, task, warnings } = await named(loadRunData(config, model));
    if (json) {
      const examples = firstRows(splits, rows, tokenizer, task.labels);
      return printJson({ splits: dataSummary(splits), examples, warnings });
    }
    for (const warning of warnings) process.stderr.write(`warning: ${warning}\n`);
    process.stdout.write(
      `${dataView(splits, { tokenizer, labels: task.labels }, rows, coloursFor(process.stdout))}\n`,
    );
  } finally {
    model.workspace.close();
  }
}
