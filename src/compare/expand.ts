import { join } from 'node:path';
import type { Locate } from '../config/problems.ts';
import { assign } from '../config/read.ts';
import { resolveRunConfig } from '../config/resolve.ts';
import { exclusiveKeys, type RunConfig } from '../config/schema.ts';
import type { CompareFile, StrategyEntry } from './file.ts';
import type { Fingerprint } from './fingerprint.ts';

/** Values by path of the run file: a point of the grid, or a choice of the search. */
export type Point = Readonly<Record<string, unknown>>;

/** A method at one point of the grid: what runs once per seed. */
export interface Variant {
  /** Index among the entries of `strategies:`. */
  readonly method: number;
  readonly point: Point;
  /** What a search chose for it. */
  readonly chosen: Point;
  /** Folder beneath the output: strategy and the first 8 digits of the fingerprint. */
  readonly folder: string;
  /** Resolved, with the first seed; its output is the folder. */
  readonly config: RunConfig;
}

/** All combinations of the values, in file order, the last path varying fastest; one empty point where there are none. */
export function points(choices: Readonly<Record<string, readonly unknown[]>>): Point[] {
  return Object.entries(choices).reduce<Point[]>(
    (all, [path, values]) => all.flatMap((point) => values.map((value) => ({ ...point, [path]: value }))),
    [{}],
  );
}

/** What the reader sees: the name of the strategy, with its options where the file names it more than once. */
export const labelsOf = (entries: readonly StrategyEntry[]): string[] =>
  entries.map(({ name, options }) => {
    const own = pointLabel(options);
    const alone = entries.filter((other) => other.name === name).length === 1;
    return alone || own === '' ? name : `${name} (${own})`;
  });

/** `budget.rank 4, train.steps 100`; empty for the only point. */
export const pointLabel = (point: Point): string =>
  Object.entries(point)
    .map(([path, value]) => `${path} ${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(', ');

/** Where a run of the variant lies. */
export const seedFolder = (variant: Pick<Variant, 'folder'>, seed: number): string =>
  `${variant.folder}/seed-${seed}`;

/** The configuration of the variant's run with a seed. */
export function withSeed(output: string, variant: Variant, seed: number): RunConfig {
  const { config } = variant;
  return { ...config, train: { ...config.train, seed }, output: join(output, seedFolder(variant, seed)) };
}

/**
 * Resolves one method at one point. Throws the `config` errors of a run file, located in the compare file: in the
 * entry of the strategy, the value of the grid, or the common part.
 */
export async function resolveVariant(
  file: CompareFile,
  { method, point, chosen }: Pick<Variant, 'method' | 'point' | 'chosen'>,
  fingerprint: Fingerprint,
): Promise<Variant> {
  const entry = file.entries[method]!;
  const raw = structuredClone(file.common) as Record<string, unknown>;
  const values = { ...point, ...chosen };
  const displaced = exclusiveKeys.flatMap(([one, other]) => [
    ...(one in values && !(other in values) ? [other] : []),
    ...(other in values && !(one in values) ? [one] : []),
  ]);
  for (const path of displaced) assign(raw, path.split('.'), undefined);
  for (const [path, value] of Object.entries(values)) assign(raw, path.split('.'), value);
  for (const [key, value] of Object.entries(entry.options)) assign(raw, ['adapter', key], value);
  assign(raw, ['adapter', 'strategy'], entry.strategy);
  assign(raw, ['train', 'seed'], file.seeds[0]);
  const config = resolveRunConfig(raw, {
    strategies: file.strategies,
    baseDir: file.baseDir,
    name: file.name,
    locate: locateIn(file, method, values),
  });
  const hash = await fingerprint(config);
  const folder = `${entry.name}-${hash.slice(0, 8)}`;
  return { method, point, chosen, folder, config };
}

/** The output folder of the whole comparison. */
export const outputOf = (variants: readonly Variant[]): string => variants[0]!.config.output;

/** Every method at every point of the grid, the methods of a point together. */
export async function expand(
  file: CompareFile,
  fingerprint: Fingerprint,
  choose: (method: number, point: Point) => Point = () => ({}),
): Promise<Variant[]> {
  const variants: Variant[] = [];
  for (const point of points(file.grid))
    for (const method of file.entries.keys())
      variants.push(
        await resolveVariant(file, { method, point, chosen: choose(method, point) }, fingerprint),
      );
  return variants;
}

/** Places of the resolver's paths in the compare file. */
function locateIn(file: CompareFile, method: number, values: Point): Locate {
  const entry = file.entries[method]!;
  return (path, atKey) => {
    for (let depth = path.length; depth > 0; depth--) {
      const dotted = path.slice(0, depth).map(String).join('.');
      if (!Object.hasOwn(values, dotted)) continue;
      const list = Object.hasOwn(file.grid, dotted) ? 'grid' : 'search';
      const index = file[list][dotted]!.indexOf(values[dotted]);
      return file.locate(atKey ? [list, dotted] : [list, dotted, index], atKey);
    }
    const [section, key] = path;
    if (section === 'adapter' && (key === 'strategy' || Object.hasOwn(entry.options, key ?? '')))
      return file.locate(['strategies', method, ...path.slice(1)], atKey);
    return file.locate(path, atKey);
  };
}
