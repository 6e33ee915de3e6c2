import type { Command } from 'commander';

interface Options {
  readonly markdown?: boolean;
}

export function addVerb(program: Command): void {
  program
    .command('schema')
    .description('print the JSON Schema of the run file, for editors and checks')
    .option('--markdown', 'print the reference of the run file instead')
    .addHelpText('after', '\nExample:\n  npx onnx-alora schema > run.schema.json')
    .action(async (options: Options) => {
      const [{ runFileJsonSchema }, { runFileReference }, strategies] = await Promise.all([
        import('../../config/jsonSchema.ts'),
        import('../../config/reference.ts'),
        import('../../strategies.ts'),
      ]);
      const text = options.markdown
        ? runFileReference(strategies)
        : `${JSON.stringify(runFileJsonSchema(strategies), null, 2)}\n`;
      process.stdout.write(text);
    });
}
