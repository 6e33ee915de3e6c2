import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '..');

/** What each folder of src may import: dependencies point one way. */
const below = {
  onnx: [],
  passes: ['onnx'],
  adapters: ['passes', 'onnx'],
  autodiff: ['passes', 'onnx'],
  runtime: ['autodiff', 'passes', 'adapters', 'onnx'],
  tasks: [],
  config: [],
  training: ['runtime', 'autodiff', 'passes', 'adapters', 'onnx', 'tasks', 'config'],
  inference: ['training', 'runtime', 'autodiff', 'passes', 'adapters', 'onnx', 'tasks', 'config'],
  compare: ['inference', 'training', 'runtime', 'adapters', 'onnx', 'tasks', 'config'],
  report: ['compare', 'training', 'adapters', 'config'],
  testing: ['training', 'runtime', 'autodiff', 'passes', 'adapters', 'onnx'],
  cli: Object.assign([], { all: true }),
} as Record<string, string[] & { all?: true }>;

/** Files at the top of src: leaves that anyone may import, and the public entries. */
const leaves = ['errors.ts', 'random.ts', 'atomicFiles.ts'];

const files = (folder: string) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
    .map((name) => join(folder, name));

/** Every module that a file imports or re-exports, types included. */
function imports(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8');
  const from =
    /(?:^|\n)\s*(?:import|export)\b[^'";]*?from\s*'([^']+)'|import\(\s*'([^']+)'\s*\)|(?:^|\n)import\s*'([^']+)'/g;
  return [...text.matchAll(from)].map((match) => (match[1] ?? match[2] ?? match[3])!);
}

const target = (file: string, specifier: string) => relative(root, resolve(root, dirname(file), specifier));

describe('the house', () => {
  it('has no folder without a place in it', () => {
    const folders = readdirSync(join(root, 'src'), { withFileTypes: true }).filter((entry) =>
      entry.isDirectory(),
    );
    expect(folders.map(({ name }) => name).filter((name) => !(name in below))).toEqual([]);
  });

  it('imports point one way', () => {
    const wrong = files('src').flatMap((file) => {
      const [, folder] = file.split(sep);
      const own = below[folder!];
      if (!own || own.all) return [];
      return imports(file)
        .filter((specifier) => specifier.startsWith('.'))
        .map((specifier) => target(file, specifier))
        .filter((path) => {
          const [top, inside, deeper] = path.split(sep);
          if (top !== 'src') return true;
          if (deeper === undefined) return !leaves.includes(inside!);
          return inside !== folder && !own.includes(inside!);
        })
        .map((path) => `${file} -> ${path}`);
    });
    expect(wrong).toEqual([]);
  });

  it('plug-ins import the public strategy API and nothing else, not even each other', () => {
    const wrong = files('plugins').flatMap((file) =>
      imports(file)
        .filter((specifier) => {
          if (!specifier.startsWith('.')) return specifier !== 'onnx-alora/strategy';
          return target(file, specifier).split(sep)[1] !== file.split(sep)[1];
        })
        .map((specifier) => `${file} -> ${specifier}`),
    );
    expect(wrong).toEqual([]);
  });

  it('only src/strategies.ts imports plug-ins', () => {
    const wrong = files('src').filter(
      (file) =>
        file !== join('src', 'strategies.ts') &&
        imports(file).some(
          (specifier) => specifier.startsWith('.') && target(file, specifier).startsWith('plugins'),
        ),
    );
    expect(wrong).toEqual([]);
  });
});
