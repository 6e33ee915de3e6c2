import { createHash } from 'node:crypto';
import { basename, isAbsolute, relative, sep } from 'node:path';
import { parse, stringify } from 'yaml';
import { isModulePath } from './resolve.ts';
import { pathKeys, type RunConfig } from './schema.ts';

/**
 * A resolved configuration as YAML that resolves to the same when read from `dir`: paths are written relative
 * to it, so that a project with its runs can be moved as a whole.
 */
export function stringifyRunConfig(config: RunConfig, dir: string): string {
  const portable = mapPaths(config, (path) =>
    isAbsolute(path) ? toPosix(relative(dir, path)) || '.' : path,
  );
  return stringify(portable, { lineWidth: 0, aliasDuplicateObjects: false });
}

/**
 * sha256 of the configuration, the same wherever the project lies: without the output folder and the threads,
 * paths by their last part only (what is in the files is hashed apart).
 */
export function configHash(config: RunConfig): string {
  const {
    output: _output,
    runtime,
    ...rest
  } = mapPaths(config, (path) => (isAbsolute(path) ? basename(path) : path));
  const { threads: _threads, ...where } = runtime;
  return createHash('sha256')
    .update(canonical({ ...rest, runtime: where }))
    .digest('hex');
}

/**
 * Keys in which a configuration differs from what `stringifyRunConfig` wrote to `dir`, with the values there and here;
 * output folder and threads aside.
 */
export function differences(
  written: string,
  config: RunConfig,
  dir: string,
): { readonly key: string; readonly there: string; readonly here: string }[] {
  const there = leaves(parse(written));
  const here = leaves(parse(stringifyRunConfig(config, dir)));
  const ignored = ['output', 'runtime.threads'];
  return [...new Set([...there.keys(), ...here.keys()])]
    .filter((key) => there.get(key) !== here.get(key) && !ignored.includes(key))
    .map((key) => ({ key, there: there.get(key) ?? 'not given', here: here.get(key) ?? 'not given' }));
}

/** Dotted paths and JSON of everything in nested sections. */
function leaves(value: unknown, prefix = ''): Map<string, string> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return new Map([[prefix, JSON.stringify(value)]]);
  return new Map(
    Object.entries(value).flatMap(([key, child]) => [
      ...leaves(child, prefix === '' ? key : `${prefix}.${key}`),
    ]),
  );
}

function mapPaths(config: RunConfig, change: (path: string) => string): RunConfig {
  const copy = structuredClone(config);
  for (const dotted of pathKeys) {
    const keys = dotted.split('.');
    const leaf = keys.pop()!;
    const section = keys.reduce<Record<string, unknown>>(
      (at, key) => at[key] as Record<string, unknown>,
      copy,
    );
    if (typeof section[leaf] === 'string') section[leaf] = change(section[leaf]);
  }
  if (isModulePath(copy.adapter.strategy)) {
    const changed = change(copy.adapter.strategy);
    // A bare file name would be read as a strategy's name or a package.
    copy.adapter.strategy = isModulePath(changed) ? changed : `./${changed}`;
  }
  return copy;
}

const toPosix = (path: string): string => path.split(sep).join('/');

/** JSON with sorted keys; undefined is left out. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value).filter(([, v]) => v !== undefined);
    entries.sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${entries.map(([key, v]) => `${JSON.stringify(key)}:${canonical(v)}`).join(',')}}`;
  }
  return JSON.stringify(value);
}
