import { existsSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { isAlias, isMap, isNode, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml';
import { AloraError } from '../errors.ts';
import { baseJsonSchema, type JsonSchema, schemaAt } from './jsonSchema.ts';
import { configError, type Locate, unknownKey, valueAt } from './problems.ts';
import { isModulePath, resolveRunConfig, runName } from './resolve.ts';
import { exclusiveKeys, pathKeys, type RunConfig } from './schema.ts';
import { isThirdParty, type LoadedStrategy, loadStrategy } from './thirdParty.ts';

/** A file as written, with the places of its keys. */
export interface RawFile {
  readonly file: string;
  readonly value: unknown;
  readonly locate: Locate;
}

export interface ReadOptions<S extends LoadedStrategy> {
  /** The strategies that come with the package. */
  readonly strategies: Readonly<Record<string, S>>;
  readonly tasks?: readonly string[];
  /** Arguments of `--set`: `a.b=value`, the value in YAML. */
  readonly set?: readonly string[];
}

/** A run file, resolved, and the third-party strategy that it names, if any, by its word. */
export interface RunFile<S> {
  readonly config: RunConfig;
  readonly strategies: Readonly<Record<string, S>>;
  readonly locate: Locate;
}

/**
 * Reads, overrides and resolves a run file (YAML or JSON). A third-party strategy is imported. Throws `config`
 * errors that name file, line and column; `CONFIG_NOT_FOUND` where there is no file.
 */
export async function readRunFile<S extends LoadedStrategy>(
  file: string,
  options: ReadOptions<S>,
): Promise<RunFile<S>> {
  const raw = applySettings(readRaw(file), options.set ?? []);
  if (valueAt(raw.value, ['strategies']) !== undefined && valueAt(raw.value, ['seeds']) !== undefined)
    throw new AloraError(
      'config',
      'CONFIG_COMPARE_FILE',
      'this is a compare file, and a run file is wanted',
      {
        where: raw.locate(['strategies'], true),
        got: 'strategies and seeds',
        fix: `\`npx onnx-alora compare ${file}\`, or put one strategy under adapter.strategy and one seed under train.seed`,
      },
    );
  const baseDir = dirname(resolve(file));
  const word = valueAt(raw.value, ['adapter', 'strategy']);
  const own: Record<string, S> = {};
  if (typeof word === 'string' && (isModulePath(word) || isThirdParty(word, baseDir, options.strategies)))
    own[isModulePath(word) ? resolve(baseDir, word) : word] = await loadStrategy<S>(
      word,
      baseDir,
      options.strategies,
      raw.locate(['adapter', 'strategy'], false),
    );
  const config = resolveRunConfig(raw.value, {
    strategies: { ...options.strategies, ...own },
    tasks: options.tasks,
    baseDir,
    name: runName(file),
    locate: raw.locate,
  });
  return { config, strategies: own, locate: raw.locate };
}

/** Parses a YAML or JSON file and keeps the positions of keys and values. */
export function readRaw(file: string): RawFile {
  const text = readText(file);
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, logLevel: 'error' });
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${file}:${line}:${col}`;
  };
  const fault = document.errors[0] ?? document.warnings[0];
  if (fault?.code === 'DUPLICATE_KEY') {
    const key = /^["']?([^:"'\s]+)/.exec(text.slice(fault.pos[0]))?.[1] ?? '';
    throw new AloraError('config', 'CONFIG_DUPLICATE_KEY', `the key ${key} stands twice in one section`, {
      where: at(fault.pos[0]),
      fix: 'remove one of the two',
    });
  }
  if (fault) throw syntaxError(fault.message, at(fault.pos[0]), fault);
  let value: unknown;
  try {
    value = document.toJS();
    // An alias within what it repeats makes a value that holds itself.
    JSON.stringify(value);
  } catch (cause) {
    if (/circular structure/.test((cause as Error).message))
      throw syntaxError('an alias stands within what it repeats', file, cause);
    throw syntaxError((cause as Error).message, file, cause);
  }
  if (value === null || value === undefined)
    throw new AloraError('config', 'CONFIG_EMPTY', 'the run file is empty', {
      where: file,
      fix: '`npx onnx-alora init` writes one that works',
    });
  return {
    file,
    value,
    locate: (path, atKey) => {
      const offset = offsetOf(document.contents, path, atKey);
      return offset === undefined ? file : at(offset);
    },
  };
}

function readText(file: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(file));
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT')
      throw new AloraError('config', 'CONFIG_NOT_FOUND', `there is no run file ${file}`, {
        where: resolve(file),
        fix: '`npx onnx-alora init` writes one that works',
        cause,
      });
    const reason =
      code === 'EISDIR'
        ? 'is a directory'
        : code === 'ERR_ENCODING_INVALID_ENCODED_DATA'
          ? 'is not UTF-8 text'
          : `cannot be read (${code})`;
    throw new AloraError('config', 'CONFIG_UNREADABLE', `the run file ${reason}`, {
      where: resolve(file),
      fix: 'name a YAML or JSON file',
      cause,
    });
  }
}

function syntaxError(message: string, where: string, cause: unknown): AloraError {
  return new AloraError(
    'config',
    'CONFIG_SYNTAX',
    `not valid YAML: ${message[0]?.toLowerCase()}${message.slice(1)}`,
    {
      where,
      fix: 'mend the file at this place',
      cause,
    },
  );
}

/** Offset of a key or value in the text; of the nearest enclosing section for a key that is not there. */
function offsetOf(contents: Node | null, path: readonly PropertyKey[], atKey: boolean): number | undefined {
  let node: unknown = contents;
  let offset = contents?.range?.[0];
  for (const [depth, key] of path.entries()) {
    if (isAlias(node)) return offset;
    if (isMap(node)) {
      const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(key));
      if (!pair) return offset;
      const wantsKey = (atKey && depth === path.length - 1) || !isNode(pair.value);
      const place = wantsKey ? pair.key : pair.value;
      // A section is found at its key: its contents begin on another line.
      offset =
        (isNode(place) && isMap(place) && isNode(pair.key)
          ? pair.key.range?.[0]
          : (place as Node).range?.[0]) ?? offset;
      node = pair.value;
    } else if (isSeq(node) && typeof key === 'number') {
      node = node.items[key];
      offset = (isNode(node) ? node.range?.[0] : undefined) ?? offset;
    } else return offset;
  }
  return offset;
}

/**
 * Applies `--set a.b=value` over a file. The value is YAML; `null` unsets a key; a path is relative to the
 * working directory. A setting displaces the file's other half of an exclusive pair: `train.steps` its epochs.
 * `schema` says which keys there are.
 */
export function applySettings(
  raw: RawFile,
  settings: readonly string[],
  schema: JsonSchema = baseJsonSchema(),
): RawFile {
  if (settings.length === 0) return raw;
  const value = structuredClone(raw.value) as Record<string, unknown>;
  const flags = new Map<string, string>();
  for (const setting of settings) {
    const equals = setting.indexOf('=');
    const dotted = setting.slice(0, Math.max(equals, 0)).trim();
    if (dotted === '' || dotted.split('.').includes(''))
      throw new AloraError('usage', 'SET_SYNTAX', `--set wants path=value`, {
        where: `--set ${setting}`,
        got: setting,
        fix: 'write for example --set train.learningRate=3e-4',
      });
    const keys = dotted.split('.');
    rejectUnknown(keys, schema, `--set ${setting}`);
    const given = parseSetting(dotted, setting.slice(equals + 1));
    assign(value, keys, typeof given === 'string' && isLocalPath(dotted, given) ? resolve(given) : given);
    flags.set(dotted, `--set ${setting}`);
  }
  for (const [one, other] of exclusiveKeys) {
    if (flags.has(one) && !flags.has(other)) assign(value, other.split('.'), undefined);
    if (flags.has(other) && !flags.has(one)) assign(value, one.split('.'), undefined);
  }
  return {
    ...raw,
    value,
    locate: (path, atKey) => {
      for (let depth = path.length; depth > 0; depth--) {
        const flag = flags.get(path.slice(0, depth).map(String).join('.'));
        if (flag) return flag;
      }
      return raw.locate(path, atKey);
    },
  };
}

function parseSetting(dotted: string, text: string): unknown {
  const refusal = (cause: unknown) =>
    new AloraError('usage', 'SET_SYNTAX', `the value of ${dotted} is not valid YAML`, {
      where: `--set ${dotted}=${text}`,
      got: text,
      fix: `put it in quotes that the shell leaves alone: --set '${dotted}="${text.replace(/["'\\]/g, '')}"'`,
      cause,
    });
  const document = parseDocument(text, { prettyErrors: false, logLevel: 'error' });
  if (document.errors[0]) throw refusal(document.errors[0]);
  try {
    // *.jsonl is an alias in YAML.
    return document.toJS();
  } catch (cause) {
    throw refusal(cause);
  }
}

/** Whether the value of a key is a path; a hub id or a strategy's name is none. */
function isLocalPath(dotted: string, value: string): boolean {
  if (dotted === 'adapter.strategy') return isModulePath(value);
  if (dotted === 'model.path') return isModulePath(value) || existsSync(value);
  return (pathKeys as readonly string[]).includes(dotted);
}

function rejectUnknown(keys: readonly string[], schema: JsonSchema, where: string): void {
  for (let depth = 0; depth < keys.length; depth++) {
    const section = schemaAt(schema, keys.slice(0, depth));
    // Options of strategies stand beside the common keys; the strategy's schema judges them.
    if (keys[0] === 'adapter' && depth === 1 && keys[1] !== '__proto__') return;
    if (schemaAt(schema, keys.slice(0, depth + 1))) continue;
    const siblings = Object.keys(section?.properties ?? {});
    throw configError([unknownKey(keys[depth]!, keys.slice(0, depth), siblings, schema)], () => where);
  }
}

/** Sets a path of plain sections, copying those it goes through; undefined removes the key. */
export function assign(target: Record<string, unknown>, keys: readonly string[], value: unknown): void {
  const [key, ...rest] = keys as [string, ...string[]];
  if (rest.length === 0) {
    if (value === undefined) delete target[key];
    else target[key] = value;
    return;
  }
  const child = target[key];
  const section = typeof child === 'object' && child !== null && !Array.isArray(child) ? { ...child } : {};
  if (value === undefined && child === undefined) return;
  target[key] = section;
  assign(section as Record<string, unknown>, rest, value);
}
