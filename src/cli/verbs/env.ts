import { cpus, release, totalmem } from 'node:os';
import type { Command } from 'commander';
import { bytes } from '../format.ts';
import { packageRoot, packageVersion } from '../installation.ts';

interface Options {
  readonly json?: boolean;
}

export function addVerb(program: Command): void {
  program
    .command('env')
    .description('print versions, execution providers and machine, for bug reports')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  npx onnx-alora env --json')
    .action(async (options: Options) => {
      const env = await environment();
      if (options.json) process.stdout.write(`${JSON.stringify(env)}\n`);
      else
        for (const [name, value] of Object.entries({
          ...env,
          memory: bytes(env.memory),
          providers: env.providers.join(', '),
        }))
          process.stdout.write(`${name.padEnd(14)}${value}\n`);
    });
}

async function environment() {
  const { listSupportedBackends, env } = await import('onnxruntime-node');
  const processors = cpus();
  return {
    'onnx-alora': packageVersion(),
    node: process.version,
    onnxruntime: env.versions.node ?? env.versions.common,
    // A provider that is not bundled works where its libraries are installed.
    providers: listSupportedBackends().map(({ name, bundled }) => (bundled ? name : `${name} (not bundled)`)),
    platform: `${process.platform} ${process.arch} ${release()}`,
    cpu: processors[0]?.model.trim() ?? 'unknown',
    cores: processors.length,
    memory: totalmem(),
    package: packageRoot(),
  };
}
