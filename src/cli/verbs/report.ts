import type { Command } from 'commander';
import { example } from '../options.ts';
import { shortPath } from '../paths.ts';

export function addVerb(program: Command): void {
  const command = program
    .command('report')
    .argument('<dir>', 'run folder, or output folder of a comparison')
    .description('write report.html, one self-contained file, and its figures as SVG')
    .action((dir: string) => drawReport(dir));
  example(command, 'npx onnx-alora report runs/run');
}

async function drawReport(dir: string): Promise<void> {
  const { writeReport } = await import('../../report/index.ts');
  const { html, svgs } = await writeReport(dir);
  for (const path of [html, ...svgs]) process.stdout.write(`wrote ${shortPath(path)}\n`);
}
