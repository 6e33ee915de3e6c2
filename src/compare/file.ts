import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { baseJsonSchema, type JsonSchema } from '../config/jsonSchema.ts';
import { configError, fromZodIssues, type Locate, type Problem, unknownKey } from '../config/problems.ts';
import { applySettings, type RawFile, readRaw } from '../config/read.ts';
import { isModulePath, runName } from '../config/resolve.ts';
import { isThirdParty, loadStrategy } from '../config/thirdParty.ts';
import { AloraError, nearest } from '../errors.ts';
import type { StrategyRegistry } from '../training/assemble.ts';

const choices = (what: string) => z.record(z.string().min(1), z.array(z.unknown()).min(1)).describe(what);

/** What a compare file holds beside the keys of a run file. */
const comparison = z.strictObject({
  strategies: z
    .array(z.union([z.string().min(1), z.looseObject({ strategy: z.string().min(1) })]))
    .min(1)
    .describe('What is compared: names, or {strategy: name, option: value}.'),
  seeds: z.array(z.int().min(0)).min(1).describe('Seeds; every strategy runs with each of them.'),
  baseline: z
    .string()
    .min(1)
    .optional()
    .describe('The strategy that the others are compared with; without it, the first.'),
  grid: choices('Values of a path of the run file, each of which multiplies the runs.').optional(),
  search: choices('Values of a path, of which each strategy takes the best on dev.').optional(),
});

/** One entry of `strategies:`. */
export interface StrategyEntry {
  /** The word of the run file. */
  readonly strategy: string;
  /** What the strategy calls itself: the word, unless that is a path or a package. */
  readonly name: string;
  /** Keys that stand beside it: options of the strategy, or common keys of `adapter`. */
  readonly options: Readonly<Record<string, unknown>>;
}

/** A compare file as read: what is common to all runs, and what multiplies them. Nothing is resolved yet. */
export interface CompareFile {
  /** Name for the default output folder. */
  readonly name: string;
  /** What relative paths are relative to. */
  readonly baseDir: string;
  /** The file as written. */
  readonly source: string;
  /** The run file's part, with the defaults of a comparison. */
  readonly common: Readonly<Record<string, unknown>>;
  readonly entries: readonly StrategyEntry[];
  readonly seeds: readonly number[];
  readonly baseline: string | undefined;
  readonly grid: Readonly<Record<string, readonly unknown[]>>;
  readonly search: Readonly<Record<string, readonly unknown[]>>;
  /** Shipped strategies and those that the file names by path, by the key that a resolved run file uses. */
  readonly strategies: StrategyRegistry;
  readonly locate: Locate;
}

/** A compare file as an object, for TypeScript. */
export type CompareInput = z.input<typeof comparison> & { readonly [section: string]: unknown };

const compareKeys = Object.keys(comparison.shape);
/** Paths that have a key of their own in a compare file. */
const ownKeys: Readonly<Record<string, string>> = {
  'adapter.strategy': 'strategies',
  'train.seed': 'seeds',
  output: 'output',
};

/**
 * Reads a compare file. Throws `config` errors with file, line and column; what a single run file would be refused
 * for is found later, by `expand`.
 */
export async function readCompareFile(
  file: string,
  strategies: StrategyRegistry,
  set: readonly string[] = [],
): Promise<CompareFile> {
  const raw = applySettings(readRaw(file), set, compareJsonSchema());
  return parseComparison(raw, {
    name: runName(file),
    baseDir: dirname(resolve(file)),
    source: readFileSync(file, 'utf8'),
    strategies,
  });
}

/** A comparison given as an object; relative paths are relative to the working directory. */
export async function compareInput(input: CompareInput, strategies: StrategyRegistry): Promise<CompareFile> {
  const locate: Locate = (path) => path.map(String).join('.') || 'the comparison';
  return parseComparison(
    { file: 'compare', value: input, locate },
    { name: 'compare', baseDir: process.cwd(), source: JSON.stringify(input, null, 2), strategies },
  );
}

interface Origin {
  readonly name: string;
  readonly baseDir: string;
  readonly source: string;
  readonly strategies: StrategyRegistry;
}

async function parseComparison(raw: RawFile, origin: Origin): Promise<CompareFile> {
  const { locate } = raw;
  const sections = isSection(raw.value) ? raw.value : {};
  const given = Object.entries(sections).filter(([, value]) => (value ?? undefined) !== undefined);
  const own = Object.fromEntries(given.filter(([key]) => compareKeys.includes(key)));
  const common = Object.fromEntries(given.filter(([key]) => !compareKeys.includes(key)));
  const parsed = comparison.safeParse(own);
  const schema = compareJsonSchema();
  const problems: Problem[] = parsed.success ? [] : fromZodIssues(parsed.error.issues, own, schema);
  problems.push(...misplaced(common, schema));
  if (!parsed.success) throw configError(problems, locate);
  const { seeds, grid = {}, search = {}, baseline } = parsed.data;
  problems.push(...repeated(parsed.data), ...reserved({ grid, search }));
  if (problems.length > 0) throw configError(problems, locate);

  const loaded: Record<string, StrategyRegistry[string]> = {};
  const entries: StrategyEntry[] = [];
  for (const [i, entry] of parsed.data.strategies.entries()) {
    const { strategy: word, ...options } = typeof entry === 'string' ? { strategy: entry } : entry;
    const key = isModulePath(word) ? resolve(origin.baseDir, word) : word;
    const foreign = isModulePath(word) || isThirdParty(word, origin.baseDir, origin.strategies);
    if (foreign && !Object.hasOwn(loaded, key)) {
      const where = locate(['strategies', i], false);
      loaded[key] = await loadStrategy(word, origin.baseDir, { ...origin.strategies, ...loaded }, where);
    }
    entries.push({ strategy: word, name: loaded[key]?.name ?? word, options });
  }
  return {
    name: origin.name,
    baseDir: origin.baseDir,
    source: origin.source,
    common: withDefaults(common),
    entries,
    seeds,
    baseline,
    grid,
    search,
    strategies: { ...origin.strategies, ...loaded },
    locate,
  };
}

const isSection = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The run file's schema with the keys of a comparison, for "did you mean". */
function compareJsonSchema(): JsonSchema {
  const base = baseJsonSchema();
  const own = z.toJSONSchema(comparison, { io: 'input' }) as JsonSchema;
  return { ...base, properties: { ...own.properties, ...base.properties } };
}

/** Every strategy trains as long as the others, on one core, unless the file says otherwise. */
function withDefaults(common: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const section = (key: string, defaults: Record<string, unknown>) => {
    const value = common[key] ?? {};
    return isSection(value) ? { ...defaults, ...value } : value;
  };
  return { ...common, train: section('train', { patience: 0 }), runtime: section('runtime', { threads: 1 }) };
}

/** Keys that no file has, and keys of a run file that a comparison says elsewhere. */
function misplaced(common: Readonly<Record<string, unknown>>, schema: JsonSchema): Problem[] {
  const known = Object.keys(schema.properties ?? {});
  const problems = Object.keys(common)
    .filter((key) => !known.includes(key))
    .map((key) => unknownKey(key, [], known, schema));
  for (const [section, key, instead] of [
    ['adapter', 'strategy', 'strategies'],
    ['train', 'seed', 'seeds'],
  ] as const)
    if (isSection(common[section]) && common[section][key] !== undefined)
      problems.push({
        code: 'CONFIG_CONFLICT',
        message: `a compare file has no ${section}.${key}: it says ${instead}`,
        path: [section, key],
        atKey: true,
        fix: `remove it, and list it under ${instead}`,
      });
  return problems;
}

function repeated({ strategies, seeds }: z.output<typeof comparison>): Problem[] {
  const twice = (key: string, items: readonly unknown[]): Problem[] => {
    const texts = items.map((item) => JSON.stringify(typeof item === 'string' ? { strategy: item } : item));
    const at = texts.findIndex((text, i) => texts.indexOf(text) < i);
    if (at < 0) return [];
    return [
      {
        code: 'CONFIG_VALUE',
        message: `${key} names the same twice`,
        path: [key, at],
        got: items[at],
        fix: 'remove one of the two',
      },
    ];
  };
  return [...twice('strategies', strategies), ...twice('seeds', seeds)];
}

function reserved(lists: Readonly<Record<'grid' | 'search', Readonly<Record<string, unknown>>>>): Problem[] {
  return Object.entries(lists).flatMap(([list, paths]) =>
    Object.keys(paths).flatMap((path): Problem[] => {
      const instead = Object.hasOwn(ownKeys, path) ? ownKeys[path] : undefined;
      if (instead !== undefined)
        return [
          {
            code: 'CONFIG_CONFLICT',
            message: `${list} cannot vary ${path}`,
            path: [list, path],
            atKey: true,
            fix: instead === 'output' ? 'remove it: every run has a folder of its own' : `use ${instead}`,
          },
        ];
      if (list === 'search' && Object.hasOwn(lists.grid, path))
        return [
          {
            code: 'CONFIG_CONFLICT',
            message: `${path} stands under grid and under search`,
            path: [list, path],
            atKey: true,
            fix: 'keep one: grid runs every value, search takes the best',
          },
        ];
      return [];
    }),
  );
}

/** Refuses a baseline that is not among the methods. */
export function baselineOf(file: CompareFile, labels: readonly string[]): string {
  if (file.baseline === undefined) return labels[0]!;
  const at = labels.indexOf(file.baseline);
  const byWord = file.entries.findIndex(({ strategy }) => strategy === file.baseline);
  if (at >= 0 || byWord >= 0) return labels[at >= 0 ? at : byWord]!;
  const near = nearest(file.baseline, labels);
  throw new AloraError('config', 'CONFIG_VALUE', 'the baseline is none of the strategies', {
    where: file.locate(['baseline'], false),
    got: file.baseline,
    allowed: labels,
    didYouMean: near,
    fix:
      near === undefined
        ? 'name one of the strategies, or leave baseline out for the first'
        : `write ${near}`,
  });
}
