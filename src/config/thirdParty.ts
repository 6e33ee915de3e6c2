import { existsSync, readFileSync } from 'node:fs';
import { createRequire, isBuiltin } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { AloraError, nearest } from '../errors.ts';
import type { OptionsSchema } from './jsonSchema.ts';
import { isModulePath } from './resolve.ts';

/** What every strategy has, as far as the configuration cares. */
export interface LoadedStrategy {
  readonly name: string;
  readonly options: OptionsSchema;
}

/**
 * Whether `word` can only be a strategy of a third party: a path, a scoped name, or that of an installed package. Other
 * words are slips of the pen in the name of a strategy of ours.
 */
export const isThirdParty = (word: string, baseDir: string, builtin: object): boolean =>
  !Object.hasOwn(builtin, word) && (/[/@]/.test(word) || locateModule(word, baseDir) !== undefined);

/**
 * Imports a third-party strategy: the default export of a module path (relative to `baseDir`) or of an installed
 * package. Throws `STRATEGY_NOT_FOUND`, `STRATEGY_IMPORT` or `STRATEGY_INVALID`, all of kind `config`.
 */
export async function loadStrategy<S extends LoadedStrategy>(
  word: string,
  baseDir: string,
  builtin: Readonly<Record<string, S>>,
  where: string,
): Promise<S> {
  const url = locateModule(word, baseDir);
  if (url === undefined)
    throw new AloraError('config', 'STRATEGY_NOT_FOUND', `there is no strategy module ${word}`, {
      where,
      got: isModulePath(word) ? resolve(baseDir, word) : word,
      allowed: [...Object.keys(builtin), 'the path of a module', 'an installed package'],
      didYouMean: nearest(word, Object.keys(builtin)),
      fix: isModulePath(word) ? 'mend the path; it is relative to the run file' : `npm install ${word}`,
    });
  let module: { default?: unknown };
  try {
    module = (await import(url)) as { default?: unknown };
  } catch (cause) {
    const { message } = cause as Error;
    throw new AloraError(
      'config',
      'STRATEGY_IMPORT',
      `the strategy module ${word} cannot be imported: ${message}`,
      {
        where,
        // Node looks from where a linked folder really is.
        fix: message.includes("package 'onnx-alora'")
          ? 'npm install onnx-alora in the project of the module; a local folder: npm install --install-links <folder>'
          : 'run `node` on the module to see where it fails',
        cause,
      },
    );
  }
  const strategy = module.default;
  if (!isStrategy(strategy))
    throw new AloraError('config', 'STRATEGY_INVALID', `the default export of ${word} is not a strategy`, {
      where,
      got: typeof strategy,
      allowed: 'what defineStrategy of onnx-alora/strategy returns: an object with name and options',
      fix: 'export default defineStrategy({ ... })',
    });
  if (Object.hasOwn(builtin, strategy.name))
    throw new AloraError(
      'config',
      'STRATEGY_DUPLICATE_NAME',
      `the strategy of ${word} calls itself ${strategy.name}, which is taken`,
      {
        where,
        got: strategy.name,
        fix: 'give the strategy a name of its own',
      },
    );
  return strategy as S;
}

function locateModule(word: string, baseDir: string): string | undefined {
  if (isModulePath(word)) {
    const path = resolve(baseDir, word);
    return existsSync(path) ? pathToFileURL(path).href : undefined;
  }
  if (isBuiltin(word)) return undefined;
  const require = createRequire(join(baseDir, 'run.js'));
  try {
    return pathToFileURL(require.resolve(word)).href;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ERR_PACKAGE_PATH_NOT_EXPORTED') return undefined;
  }
  // The package is there, and has entries for `import` only, which `require` does not look at.
  const [, name, rest] = /^(@[^/]+\/[^/]+|[^/]+)(.*)$/.exec(word)!;
  for (const folder of require.resolve.paths(word) ?? []) {
    const file = join(folder, name!, 'package.json');
    if (!existsSync(file)) continue;
    const { exports } = JSON.parse(readFileSync(file, 'utf8')) as { exports?: Exports };
    const entry = entryFor(exports, `.${rest}`);
    return entry === undefined ? undefined : pathToFileURL(join(folder, name!, entry)).href;
  }
  return undefined;
}

type Exports = string | null | { readonly [key: string]: Exports };

/** What a package exports under `path` to `import`: the first condition that holds, as Node takes it. */
function entryFor(exports: Exports | undefined, path: string): string | undefined {
  if (typeof exports === 'string') return path === '.' ? exports : undefined;
  const under = exports?.[path];
  if (under !== undefined) return entryFor(under, '.');
  for (const [condition, value] of Object.entries(exports ?? {})) {
    const entry = ['import', 'node', 'module-sync', 'default'].includes(condition) && entryFor(value, path);
    if (entry) return entry;
  }
  return undefined;
}

function isStrategy(value: unknown): value is LoadedStrategy {
  const candidate = value as Partial<LoadedStrategy> | null | undefined;
  return (
    typeof candidate?.name === 'string' && typeof candidate.options?.['~standard']?.validate === 'function'
  );
}
