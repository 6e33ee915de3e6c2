import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
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
    throw new AloraError(
      'config',
      'STRATEGY_IMPORT',
      `the strategy module ${word} cannot be imported: ${(cause as Error).message}`,
      {
        where,
        fix: 'run `node` on the module to see where it fails',
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
  try {
    return pathToFileURL(createRequire(join(baseDir, 'run.js')).resolve(word)).href;
  } catch (cause) {
    // A package without a CommonJS entry is found, and then imported, by its name.
    return (cause as NodeJS.ErrnoException).code === 'ERR_PACKAGE_PATH_NOT_EXPORTED' ? word : undefined;
  }
}

function isStrategy(value: unknown): value is LoadedStrategy {
  const candidate = value as Partial<LoadedStrategy> | null | undefined;
  return (
    typeof candidate?.name === 'string' && typeof candidate.options?.['~standard']?.validate === 'function'
  );
}
