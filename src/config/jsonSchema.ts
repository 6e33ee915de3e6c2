import { z } from 'zod';
import { adapterKeys, runFile } from './schema.ts';

/** The part of JSON Schema (draft 2020-12) that the run file uses. */
export interface JsonSchema {
  type?: string;
  const?: unknown;
  enum?: unknown[];
  anyOf?: JsonSchema[];
  properties?: Record<string, JsonSchema>;
  required?: string[];
  items?: JsonSchema;
  additionalProperties?: boolean | JsonSchema;
  description?: string;
  default?: unknown;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  minItems?: number;
  pattern?: string;
  minLength?: number;
  examples?: unknown[];
  [key: string]: unknown;
}

interface Issue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/**
 * Options of a strategy: any Standard Schema (zod, valibot, ...). One that can print itself as JSON Schema
 * (zod does) appears in `schema`, in the docs and in "did you mean".
 */
export interface OptionsSchema {
  readonly '~standard': {
    readonly vendor?: string;
    readonly validate: (value: unknown) => OptionsResult | Promise<OptionsResult>;
    readonly jsonSchema?: { readonly input: (options: { readonly target: 'draft-2020-12' }) => object };
  };
}
type OptionsResult =
  | { readonly value: unknown; readonly issues?: undefined }
  | { readonly issues: readonly Issue[] };

/** Strategies by the word of the run file; all that the configuration needs to know of them. */
export type StrategySchemas = Readonly<Record<string, { readonly options: OptionsSchema }>>;

/** JSON Schema of a strategy's options; undefined if its schema cannot be printed. */
export function optionsJsonSchema(options: OptionsSchema): JsonSchema | undefined {
  return options['~standard'].jsonSchema?.input({ target: 'draft-2020-12' }) as JsonSchema | undefined;
}

/** JSON Schema of the run file without strategies. */
export function baseJsonSchema(): JsonSchema {
  return z.toJSONSchema(runFile, { io: 'input' }) as JsonSchema;
}

/** JSON Schema of the run file, `adapter` being one variant per strategy and one for third parties. */
export function runFileJsonSchema(strategies: StrategySchemas): JsonSchema {
  const schema = baseJsonSchema();
  const common = schema.properties!.adapter!;
  const variants = Object.entries(strategies).map(([name, strategy]): JsonSchema => {
    const options = optionsJsonSchema(strategy.options);
    return {
      type: 'object',
      properties: {
        ...common.properties,
        strategy: { ...common.properties!.strategy, const: name },
        ...options?.properties,
      },
      // `lora` is what a missing word means, so only the others need theirs.
      required: [...(name === 'lora' ? [] : ['strategy']), ...(options?.required ?? [])],
      additionalProperties: options === undefined,
    };
  });
  const thirdParty: JsonSchema = {
    type: 'object',
    properties: {
      ...common.properties,
      strategy: { type: 'string', pattern: '[./@]', description: 'Module path of a third-party strategy.' },
    },
    required: ['strategy'],
    additionalProperties: true,
  };
  schema.properties!.adapter = {
    description: common.description,
    default: common.default,
    anyOf: [...variants, thirdParty],
  };
  return { ...schema, title: 'Run file of onnx-alora' };
}

/** The schema at a path, `undefined` where none is known. */
export function schemaAt(root: JsonSchema, path: readonly PropertyKey[]): JsonSchema | undefined {
  let at: JsonSchema | undefined = root;
  for (const key of path) {
    if (at === undefined) return undefined;
    if (typeof key === 'number') at = at.items ?? at.anyOf?.find((variant) => variant.items)?.items;
    else if (at.properties && Object.hasOwn(at.properties, key)) at = at.properties[String(key)];
    else at = typeof at.additionalProperties === 'object' ? at.additionalProperties : undefined;
  }
  return at;
}

/** Dotted paths of all keys: sections and leaves. */
export function keyPaths(schema: JsonSchema, prefix = ''): string[] {
  return Object.entries(schema.properties ?? {}).flatMap(([key, child]) => [
    prefix + key,
    ...keyPaths(child, `${prefix}${key}.`),
  ]);
}

/** Whether a word is the dotted path of a key of the run file, an option of a strategy included. */
export const isKey = (word: string): boolean =>
  /^(adapter|data\.columns)\.\w+$/.test(word) || keyPaths(baseJsonSchema()).includes(word);

const largest = 2 ** 31;

/**
 * What a schema accepts, in words: `integer, at least 1`; `linear, cosine or constant`. Bounds that nobody meets are
 * left out, unless the value `got` does.
 */
export function describeAllowed(schema: JsonSchema, got?: unknown): string {
  if (schema.anyOf) return schema.anyOf.map((variant) => describeAllowed(variant, got)).join(', or ');
  if (schema.const !== undefined) return String(schema.const);
  if (schema.enum)
    return schema.enum
      .map(String)
      .join(', ')
      .replace(/, ([^,]*)$/, ' or $1');
  if (schema.type === 'boolean') return 'true or false';
  if (schema.type === 'string') {
    if (schema.examples) return `text such as "${schema.examples[0]}"`;
    return got === '' && schema.minLength ? 'text that is not empty' : 'text';
  }
  if (schema.type === 'array') {
    const items = `a list of ${schema.items?.type === 'string' ? 'texts' : describeAllowed(schema.items ?? {})}`;
    return schema.minItems ? `${items}, ${schema.minItems} or more` : items;
  }
  if (schema.type === 'object') {
    const keys = Object.keys(schema.properties ?? {});
    return keys.length > 0 ? `a section with ${keys.join(', ')}` : 'a section of names and texts';
  }
  if (schema.type === 'integer' || schema.type === 'number') {
    const bounds = [
      schema.exclusiveMinimum !== undefined && `above ${schema.exclusiveMinimum}`,
      schema.minimum !== undefined && `at least ${schema.minimum}`,
      schema.exclusiveMaximum !== undefined && `below ${schema.exclusiveMaximum}`,
      schema.maximum !== undefined &&
        (schema.maximum < largest || (typeof got === 'number' && got > schema.maximum)) &&
        `at most ${schema.maximum}`,
    ].filter((bound) => bound !== false);
    return [schema.type === 'integer' ? 'an integer' : 'a number', ...bounds].join(', ');
  }
  return 'any value';
}

/** Keys that `adapter` accepts with a strategy: the common ones and, where they can be known, its own. */
export function adapterKeysWith(options: OptionsSchema): readonly string[] | undefined {
  const own = optionsJsonSchema(options)?.properties;
  return own && [...adapterKeys, ...Object.keys(own)];
}
