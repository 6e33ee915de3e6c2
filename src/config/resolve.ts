import { existsSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import type { z } from 'zod';
import { nearest } from '../errors.ts';
import {
  adapterKeysWith,
  baseJsonSchema,
  describeAllowed,
  type OptionsSchema,
  optionsJsonSchema,
  type StrategySchemas,
} from './jsonSchema.ts';
import {
  configError,
  fromZodIssues,
  type Locate,
  type Problem,
  show,
  unknownKey,
  valueAt,
} from './problems.ts';
import {
  adapterKeys,
  exclusiveKeys,
  pathKeys,
  type RunConfig,
  type RunConfigInput,
  runFile,
} from './schema.ts';

/** What resolving needs beside the run file itself. */
export interface ResolveOptions {
  /** Known strategies, third parties by absolute module path or package name. */
  readonly strategies: StrategySchemas;
  /** Known tasks; without them, any word passes. */
  readonly tasks?: readonly string[];
  /** What relative paths are relative to; the working directory by default. */
  readonly baseDir?: string;
  /** Name of the default output folder beneath `runs/`. */
  readonly name?: string;
  /** Says where a key was written; by default its dotted path. */
  readonly locate?: Locate;
}

type Section = Record<string, unknown>;

const isSection = (value: unknown): value is Section =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A word of `adapter.strategy` that is a file rather than a name. */
export const isModulePath = (word: string): boolean => /^\.{0,2}[/\\]|^[A-Za-z]:[/\\]|\.[cm]?js$/.test(word);

/**
 * Validates a run file and fills in its defaults. Throws one error of kind `config` that names every problem:
 * unknown keys with the nearest known one, values with what is allowed, contradictions between keys.
 */
export function resolveRunConfig(raw: RunConfigInput | RunConfig, options: ResolveOptions): RunConfig;
export function resolveRunConfig(raw: unknown, options: ResolveOptions): RunConfig;
export function resolveRunConfig(raw: unknown, options: ResolveOptions): RunConfig {
  const baseDir = options.baseDir ?? process.cwd();
  const locate: Locate = options.locate ?? ((path) => path.map(String).join('.') || 'the configuration');
  if (!isSection(raw))
    throw configError(
      [
        {
          code: 'CONFIG_VALUE',
          message: 'a run file is a section of keys',
          path: [],
          got: raw,
          allowed: describeAllowed(baseJsonSchema()),
          fix: '`npx onnx-alora init` writes one that works',
        },
      ],
      locate,
    );
  const sections = withoutEmptyKeys(raw);
  const [common, own] = splitAdapter(sections.adapter);
  const parsed = runFile.safeParse({ ...sections, adapter: common });
  const problems: Problem[] = parsed.success
    ? []
    : fromZodIssues(parsed.error.issues, sections, baseJsonSchema());
  problems.push(...contradictions(sections, options.tasks));

  const word = isSection(common) && typeof common.strategy === 'string' ? common.strategy : 'lora';
  const key = isModulePath(word) ? resolve(baseDir, word) : word;
  const strategy = Object.hasOwn(options.strategies, key) ? options.strategies[key] : undefined;
  let strategyValues: Section = {};
  if (!strategy) problems.push(unknownStrategy(word, options.strategies));
  else {
    const result = validateOptions(own, strategy.options, word, options.strategies);
    problems.push(...result.problems);
    strategyValues = result.values;
  }
  if (!parsed.success || problems.length > 0) throw configError(problems, locate);

  const config = parsed.data;
  const planned = { ...config.budget };
  if (planned.rank === undefined && planned.parameters === undefined && config.adapter.initFrom === undefined)
    planned.rank = 8;
  const train = { ...config.train };
  if (train.epochs === undefined && train.steps === undefined) train.epochs = 3;
  const resolved: RunConfig = {
    ...config,
    adapter: { ...config.adapter, strategy: key, ...strategyValues },
    budget: planned,
    train,
    output: config.output ?? `runs/${options.name ?? 'run'}`,
  };
  for (const path of pathKeys) absolute(resolved, path, baseDir);
  return resolved;
}

/** A key left empty, at the top or in a section, is a key not given. */
function withoutEmptyKeys(raw: Section): Section {
  const given = (section: Section) =>
    Object.entries(section).filter(([, value]) => (value ?? undefined) !== undefined);
  return Object.fromEntries(
    given(raw).map(([key, value]) => [key, isSection(value) ? Object.fromEntries(given(value)) : value]),
  );
}

/** The common keys of `adapter`, and those left for the strategy. */
function splitAdapter(value: unknown): [common: unknown, own: Section] {
  if (!isSection(value)) return [value, {}];
  const entries = Object.entries(value);
  return [
    Object.fromEntries(entries.filter(([key]) => adapterKeys.includes(key))),
    Object.fromEntries(entries.filter(([key]) => !adapterKeys.includes(key))),
  ];
}

/** What no single key can know: exclusive pairs, shares, and words that are registered elsewhere. */
function contradictions(raw: Section, tasks: readonly string[] | undefined): Problem[] {
  const problems: Problem[] = [];
  for (const [one, other] of exclusiveKeys) {
    const path = other.split('.');
    if (
      (valueAt(raw, one.split('.')) ?? undefined) === undefined ||
      (valueAt(raw, path) ?? undefined) === undefined
    )
      continue;
    problems.push({
      code: 'CONFIG_CONFLICT',
      message: `${one} and ${other} exclude each other`,
      path,
      fix: `remove one of ${one} and ${other}`,
    });
  }
  const shares = ['dev', 'test'].map((split) => valueAt(raw, ['data', split]));
  const total = shares.reduce<number>((sum, share) => sum + (typeof share === 'number' ? share : 0), 0);
  if (shares.every((share) => typeof share === 'number' && share < 1) && total >= 1)
    problems.push({
      code: 'CONFIG_CONFLICT',
      message: `data.dev and data.test take ${total} of the training rows and leave none`,
      path: ['data', 'test'],
      got: total,
      allowed: 'shares that sum to less than 1',
      fix: 'lower data.dev or data.test',
    });
  const warmup = valueAt(raw, ['train', 'warmup']);
  if (typeof warmup === 'number' && warmup >= 1 && !Number.isInteger(warmup))
    problems.push({
      code: 'CONFIG_VALUE',
      message: `train.warmup cannot be ${warmup}`,
      path: ['train', 'warmup'],
      got: warmup,
      allowed: 'a share below 1, or a whole number of steps',
      fix: `write ${Math.round(warmup)} for so many steps, or a share such as 0.06`,
    });
  const device = valueAt(raw, ['runtime', 'device']);
  if (valueAt(raw, ['model', 'compute']) === 'int8' && (device === 'cuda' || device === 'webgpu'))
    problems.push({
      code: 'CONFIG_CONFLICT',
      message: `model.compute: int8 does not run on ${device}`,
      path: ['model', 'compute'],
      got: 'int8',
      allowed: `float32 on ${device}, int8 on cpu`,
      fix: 'remove model.compute, or set runtime.device to cpu: only that has 8-bit products',
    });
  const task = valueAt(raw, ['data', 'task']);
  if (typeof task === 'string' && task !== '' && tasks && !tasks.includes(task)) {
    const near = nearest(task, tasks);
    problems.push({
      code: 'CONFIG_UNKNOWN_TASK',
      message: `unknown task ${show(task)}`,
      path: ['data', 'task'],
      got: task,
      allowed: tasks,
      didYouMean: near,
      fix: near === undefined ? 'name one of these' : `write ${near}`,
    });
  }
  return problems;
}

function unknownStrategy(word: string, strategies: StrategySchemas): Problem {
  const names = Object.keys(strategies).filter((name) => !isModulePath(name));
  const near = nearest(word, names);
  return {
    code: 'CONFIG_UNKNOWN_STRATEGY',
    message: `unknown strategy ${show(word)}`,
    path: ['adapter', 'strategy'],
    got: word,
    allowed: [...names, 'a module path such as ./my-strategy.js', 'an installed package'],
    didYouMean: near,
    fix:
      near === undefined
        ? 'name one of these, the path of a module that exports one, or a package installed beside the run file'
        : `write ${near}`,
  };
}

/** Validates the strategy's own options by the strategy's schema. */
function validateOptions(
  own: Section,
  options: OptionsSchema,
  word: string,
  strategies: StrategySchemas,
): { values: Section; problems: Problem[] } {
  const known = adapterKeysWith(options);
  const unknown = known ? Object.keys(own).filter((key) => !known.includes(key)) : [];
  const problems = unknown.map((key): Problem => {
    const owner = Object.entries(strategies).find(([, other]) =>
      Object.hasOwn(optionsJsonSchema(other.options)?.properties ?? {}, key),
    )?.[0];
    const problem = unknownKey(key, ['adapter'], known!, baseJsonSchema());
    if (owner === undefined) return problem;
    return {
      ...problem,
      message: `adapter.${key} is an option of ${owner}, and adapter.strategy is ${word}`,
      didYouMean: undefined,
      fix: `remove it, or set adapter.strategy to ${owner}`,
    };
  });
  const values = Object.fromEntries(Object.entries(own).filter(([key]) => !unknown.includes(key)));
  const result = options['~standard'].validate(values);
  if (result instanceof Promise)
    return {
      values: {},
      problems: [
        {
          code: 'STRATEGY_INVALID',
          message: `the option schema of ${word} is asynchronous`,
          path: ['adapter'],
          fix: 'give the strategy options that are checked without waiting',
        },
      ],
    };
  if (!result.issues) return { values: result.value as Section, problems };
  const schema = optionsJsonSchema(options);
  if (schema && options['~standard'].vendor === 'zod') {
    const issues = result.issues as readonly z.core.$ZodIssue[];
    return { values: {}, problems: [...problems, ...fromZodIssues(issues, own, schema, ['adapter'])] };
  }
  for (const issue of result.issues) {
    const path = (issue.path ?? []).map((part) => (typeof part === 'object' ? part.key : part));
    const name = ['adapter', ...path].map(String).join('.');
    problems.push({
      code: 'CONFIG_VALUE',
      message: `${name}: ${issue.message}`,
      path: ['adapter', ...path],
      got: path.length > 0 ? valueAt(own, path) : undefined,
      fix: `give ${path.length > 0 ? name : 'adapter'} what the strategy ${word} asks for`,
    });
  }
  return { values: {}, problems };
}

/** Makes the path at a key absolute; a hub id, which no folder matches, stays. */
function absolute(config: RunConfig, dotted: (typeof pathKeys)[number], baseDir: string): void {
  const keys = dotted.split('.');
  const leaf = keys.pop()!;
  const section = valueAt(config, keys) as Section;
  const value = section[leaf];
  if (typeof value !== 'string') return;
  const path = resolve(baseDir, value);
  const isHubId = dotted === 'model.path' && /^[\w.-]+\/[\w.-]+$/.test(value) && !value.startsWith('.');
  section[leaf] = isHubId && !existsSync(path) && !value.endsWith('.onnx') ? value : path;
}

/** A word for the run folder: the run file's name without its extension. */
export const runName = (file: string): string => basename(file).replace(/\.[^.]+$/, '') || 'run';
