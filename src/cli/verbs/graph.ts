import { join } from 'node:path';
import type { Command } from 'commander';
import { example, openRunFile, setOption } from '../options.ts';
import { shortPath } from '../paths.ts';

interface Options {
  readonly set: readonly string[];
  readonly out: string;
}

export function addVerb(program: Command): void {
  const command = program
    .command('graph')
    .argument('<run.yaml>', 'run file')
    .description('write the training graph as plain ONNX files, for any ONNX Runtime in any language')
    .requiredOption('--out <dir>', 'folder for the graphs and their manifest of inputs and outputs')
    .addOption(setOption())
    .action((file: string, options: Options) => writeGraph(file, options));
  example(command, 'npx onnx-alora graph run.yaml --out graphs/run');
}

async function writeGraph(file: string, { set, out }: Options): Promise<void> {
  const { config, strategies } = await openRunFile(file, set);
  const { exportGraph } = await import('../../index.ts');
  const { folder, files } = await exportGraph(config, { strategies, out });
  for (const file of files) process.stdout.write(`wrote ${shortPath(join(folder, file))}\n`);
}
