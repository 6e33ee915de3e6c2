import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, extname, join, relative, resolve, sep } from 'node:path';
import type { Command } from 'commander';
import { writeFileAtomic } from '../../atomicFiles.ts';
import { AloraError, nearest } from '../../errors.ts';
import { embeddedModel } from '../installation.ts';
import { shellWord } from '../paths.ts';
import { type Template, templates } from '../templates.ts';

interface Options {
  readonly template: string;
  readonly force?: boolean;
}

export function addVerb(program: Command): void {
  program
    .command('init')
    .argument('[file]', 'run file to write', 'run.yaml')
    .description('write a commented run file, and rows to train on, that work as they stand')
    .option('--template <name>', `start: ${templates.map((t) => t.name).join(', ')}`, templates[0]!.name)
    .option('--force', 'overwrite what is there')
    .addHelpText(
      'after',
      `\nTemplates:\n${templates.map((t) => `  ${t.name.padEnd(16)}${t.title}`).join('\n')}\n\nExample:\n  npx onnx-alora init dates.yaml && npx onnx-alora train dates.yaml`,
    )
    .action((file: string, options: Options) => init(file, options));
}

function init(file: string, { template: name, force = false }: Options): void {
  const template = templates.find((t) => t.name === name);
  if (!template) {
    const names = templates.map((t) => t.name);
    const near = nearest(name, names);
    throw new AloraError('usage', 'INIT_UNKNOWN_TEMPLATE', `there is no template ${name}`, {
      got: name,
      allowed: names,
      didYouMean: near,
      fix: `\`npx onnx-alora init ${shellWord(file)} --template ${near ?? names[0]}\``,
    });
  }
  if (!/^\.ya?ml$/.test(extname(file)))
    throw new AloraError('usage', 'INIT_NOT_YAML', 'a run file has the extension .yaml', {
      got: file,
      allowed: '.yaml, .yml',
      fix: `\`npx onnx-alora init ${shellWord(`${file.replace(/\.[^./\\]*$/, '')}.yaml`)}\``,
    });
  const written = contents(template, file);
  const taken = [...written]
    .filter(([path, text]) => existsSync(path) && !holds(path, text))
    .map(([path]) => path);
  if (taken.length > 0 && !force)
    throw new AloraError('storage', 'INIT_EXISTS', 'init would overwrite a file', {
      where: taken.join(', '),
      fix: 'name another file, or give --force',
    });
  for (const [path, text] of written) writeFileAtomic(path, text);
  const word = shellWord(file);
  for (const path of written.keys()) process.stdout.write(`wrote ${relative('', path)}\n`);
  process.stdout.write(
    `\nnext: npx onnx-alora data ${word}     shows what is trained\n      npx onnx-alora train ${word}    trains\n`,
  );
}

/** Everything that a template writes, by absolute path; the run file last. */
function contents(template: Template, file: string): Map<string, string> {
  const dir = dirname(resolve(file));
  const files = Object.entries(template.files()).map(
    ([name, text]) => [join(dir, 'data', name), text] as const,
  );
  const output = `runs/${basename(file).replace(/\.ya?ml$/, '')}`;
  return new Map([...files, [resolve(file), template.runFile(pathFrom(dir, embeddedModel()), output)]]);
}

/** A path as a file in `dir` writes it: relative, unless that would climb far. */
function pathFrom(dir: string, path: string): string {
  const steps = relative(dir, path).split(sep);
  return steps.filter((step) => step === '..').length > 3 ? path : steps.join('/');
}

const holds = (path: string, text: string): boolean => {
  try {
    return readFileSync(path, 'utf8') === text;
  } catch {
    return false;
  }
};
