import type { z } from 'zod';
import { AloraError, nearest } from '../errors.ts';
import { describeAllowed, type JsonSchema, keyPaths, schemaAt } from './jsonSchema.ts';
import { valueFix } from './valueFix.ts';

/** One thing wrong with a configuration. */
export interface Problem {
  readonly code: string;
  readonly message: string;
  /** Path of the key that is at fault. */
  readonly path: readonly PropertyKey[];
  /** The name of the key is at fault, not its value. */
  readonly atKey?: boolean;
  readonly got?: unknown;
  readonly allowed?: readonly string[] | string;
  readonly didYouMean?: string;
  readonly fix?: string;
}

/** Where a path of the configuration was written: `file:line:column`, or the flag that set it. */
export type Locate = (path: readonly PropertyKey[], atKey: boolean) => string;

/** Names that other programs give to our keys. */
const familiarNames: ReadonlyMap<string, string> = new Map([
  ['lr', 'train.learningRate'],
  ['num_train_epochs', 'train.epochs'],
  ['max_steps', 'train.steps'],
  ['per_device_train_batch_size', 'train.batchSize'],
  ['micro_batch_size', 'train.batchSize'],
  ['gradient_accumulation_steps', 'train.accumulate'],
  ['lr_scheduler_type', 'train.schedule'],
  ['warmup_ratio', 'train.warmup'],
  ['warmup_steps', 'train.warmup'],
  ['max_grad_norm', 'train.clip'],
  ['eval_steps', 'train.evalEvery'],
  ['save_steps', 'train.checkpointEvery'],
  ['early_stopping_patience', 'train.patience'],
  ['max_seq_length', 'data.maxLength'],
  ['max_length', 'data.maxLength'],
  ['max_seq_len', 'data.maxLength'],
  ['dataset', 'data.train'],
  ['r', 'budget.rank'],
  ['lora_r', 'budget.rank'],
  ['lora_alpha', 'adapter.alpha'],
  ['lora_dropout', 'adapter.dropout'],
  ['method', 'adapter.strategy'],
  ['kind', 'adapter.strategy'],
  ['target_modules', 'model.targets'],
  ['lora_target', 'model.targets'],
  ['base_model', 'model.path'],
  ['model_name_or_path', 'model.path'],
  ['output_dir', 'output'],
]);

/** Keys of a compare file that a run file does not have. */
const compareKeys = ['strategies', 'seeds', 'baseline', 'grid', 'search'];

/** An unknown key, with the nearest known one: among its siblings, then anywhere in the file. */
export function unknownKey(
  key: string,
  section: readonly PropertyKey[],
  siblings: readonly string[],
  schema: JsonSchema,
): Problem {
  const places = new Map([
    ...keyPaths(schema).map((path) => [path.split('.').at(-1)!, path] as const),
    ...familiarNames,
  ]);
  const known =
    nearest(key.replace(/[_-]/g, ''), siblings) ??
    places.get(key) ??
    places.get(nearest(key, places.keys()) ?? '');
  const dotted = [...section, key].map(String).join('.');
  return {
    code: 'CONFIG_UNKNOWN_KEY',
    message: `unknown key ${dotted}`,
    path: [...section, key],
    atKey: true,
    allowed: siblings,
    didYouMean: known,
    fix:
      section.length === 0 && compareKeys.includes(key) && !siblings.includes('strategies')
        ? 'a file with this key is for `npx onnx-alora compare`'
        : known === undefined
          ? 'remove the key; `npx onnx-alora schema` prints all that exist'
          : known.includes('.') || section.length === 0
            ? `write it as ${known}`
            : `rename it to ${known}`,
  };
}

/**
 * The problems of a zod result, each with what the schema accepts at its place; `section` is where the value stands
 * in the file.
 */
export function fromZodIssues(
  issues: readonly z.core.$ZodIssue[],
  value: unknown,
  schema: JsonSchema,
  section: readonly PropertyKey[] = [],
): Problem[] {
  return issues.flatMap((issue): Problem[] => {
    const path = [...section, ...issue.path];
    const name = path.map(String).join('.');
    const here = schemaAt(schema, issue.path);
    if (issue.code === 'unrecognized_keys') {
      const siblings = Object.keys(here?.properties ?? {});
      return issue.keys.map((key) => unknownKey(key, path, siblings, schema));
    }
    const got = valueAt(value, issue.path);
    const allowed = here && describeAllowed(here, got);
    if (got === undefined)
      return [
        {
          code: 'CONFIG_MISSING_KEY',
          message: `${name} is missing`,
          path,
          allowed,
          fix: `add ${name}${here?.description ? `: ${here.description}` : ''}`,
        },
      ];
    const choices = here?.enum?.map(String);
    const isRequired = schemaAt(schema, issue.path.slice(0, -1))?.required?.includes(
      String(issue.path.at(-1)),
    );
    return [
      {
        code: 'CONFIG_VALUE',
        message: issue.code === 'custom' ? `${name}: ${issue.message}` : `${name} cannot be ${show(got)}`,
        path,
        got,
        allowed: choices ?? allowed,
        didYouMean: choices && typeof got === 'string' ? nearest(got, choices) : undefined,
        fix: valueFix(name, got, here, isRequired ?? false),
      },
    ];
  });
}

/** The value at a path of plain objects and lists. */
export function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (at, key) =>
      typeof at === 'object' && at !== null ? (at as Record<PropertyKey, unknown>)[key] : undefined,
    value,
  );
}

/** A value short enough for one line. */
export function show(value: unknown): string {
  // JSON has no NaN and no Infinity.
  const text =
    typeof value === 'string'
      ? `"${value}"`
      : typeof value === 'number'
        ? String(value)
        : (JSON.stringify(value) ?? String(value));
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** One error for all problems: the first in full, the others a line each. Unknown keys come first: they explain others. */
export function configError(problems: readonly Problem[], locate: Locate): AloraError {
  const [first, ...others] = [...problems].sort(
    (a, b) => Number(b.atKey ?? false) - Number(a.atKey ?? false),
  );
  const { code, message, path, atKey, got, allowed, didYouMean, fix } = first!;
  return new AloraError('config', code, message, {
    where: locate(path, atKey ?? false),
    got,
    allowed,
    didYouMean,
    fix,
    also: others.map((p) => `${locate(p.path, p.atKey ?? false)}: ${p.message}`),
  });
}
