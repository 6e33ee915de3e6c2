import { join } from 'node:path';
import type { Command } from 'commander';
import { AloraError } from '../../errors.ts';
import { example, openRunFile, setOption } from '../options.ts';
import { shortPath } from '../paths.ts';

interface Options {
  readonly set: readonly string[];
  readonly out: string;
  readonly inference?: boolean;
  readonly adapter: readonly string[];
}

export function addVerb(program: Command): void {
  const command = program
    .command('graph')
    .argument('<run.yaml>', 'run file')
    .description('write the training graph as plain ONNX files, for any ONNX Runtime in any language')
    .requiredOption('--out <dir>', 'folder for the graphs and their manifest of inputs and outputs')
    .option('--inference', 'instead, the inference graph of the model with adapters as inputs')
    .option(
      '--adapter <dir>',
      'with --inference: an adapter in PEFT format, written as the inputs of the graph; repeatable',
      (folder: string, before: readonly string[]) => [...before, folder],
      [] as readonly string[],
    )
    .addOption(setOption())
    .action((file: string, options: Options) => writeGraph(file, options));
  example(command, 'npx onnx-alora graph run.yaml --out graphs/run');
}

async function writeGraph(file: string, { set, out, inference, adapter }: Options): Promise<void> {
  if (!inference && adapter.length > 0)
    throw new AloraError('usage', 'USAGE_CONFLICT', '--adapter needs --inference', {
      fix: 'add --inference; the training graph starts from adapter.initFrom',
    });
  const { config, strategies, named } = await openRunFile(file, set);
  const { exportGraph, exportInferenceGraph } = await import('../../index.ts');
  const result = await named(
    inference
      ? exportInferenceGraph({ model: config.model, out, adapters: adapter })
      : exportGraph(config, { strategies, out }),
  );
  for (const file of result.files) process.stdout.write(`wrote ${shortPath(join(result.folder, file))}\n`);
}
