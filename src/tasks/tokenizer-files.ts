import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { AloraError } from '../errors.ts';

/** A JSON object of unknown content. */
export type Json = Record<string, unknown>;

/** The tokenizer's files, as one pair of objects that every tokenizer class of @xenova/transformers accepts. */
export interface TokenizerFiles {
  /** Path of tokenizer.json. */
  readonly path: string;
  readonly tokenizer: Json;
  readonly config: Json;
  /** Jinja source of the chat template. */
  readonly chatTemplate?: string;
  /** `eos_token_id` and the like of config.json, for a tokenizer_config.json that does not name the tokens. */
  readonly modelIds?: Readonly<Partial<Record<string, number>>>;
}

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

async function readText(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).replace(/^\uFEFF/, '');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new AloraError('model', 'TOKENIZER_UNREADABLE', `${basename(path)} cannot be read (${code})`, {
      where: path,
      fix: 'check the permissions of the file',
      cause,
    });
  }
}

async function readObject(path: string): Promise<Json | undefined> {
  const text = await readText(path);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new AloraError(
      'model',
      'TOKENIZER_BROKEN',
      `${basename(path)} is not valid JSON: ${(cause as Error).message}`,
      {
        where: path,
        fix: 'copy the file again from where the model came from; it may be cut short or a Git LFS pointer',
        cause,
      },
    );
  }
  if (!isObject(value))
    throw new AloraError('model', 'TOKENIZER_BROKEN', `${basename(path)} does not hold a JSON object`, {
      where: path,
      fix: 'copy the file again from where the model came from',
    });
  return value;
}

/** JavaScript before 2025 has no `(?i:...)`: writes both cases of each letter instead. */
function expandCaseInsensitive(regex: string): string {
  return regex.replace(/\(\?i:([^()\\]*)\)/g, (_, body: string) => {
    let inClass = false;
    const expanded = Array.from(body, (c) => {
      if (c === '[' || c === ']') inClass = c === '[';
      const [lower, upper] = [c.toLowerCase(), c.toUpperCase()];
      if (lower === upper) return c;
      return inClass ? lower + upper : `[${lower}${upper}]`;
    });
    return `(?:${expanded.join('')})`;
  });
}

/** Brings one pre-tokenizer or decoder, and those inside a Sequence, to the keys that @xenova/transformers reads. */
function normalizeStage(stage: unknown, role: 'pre_tokenizer' | 'decoder'): unknown {
  if (!isObject(stage)) return null;
  if (stage.type === 'Sequence') {
    const key = role === 'decoder' ? 'decoders' : 'pretokenizers';
    const inner = Array.isArray(stage[key]) ? stage[key] : [];
    return { ...stage, [key]: inner.map((s) => normalizeStage(s, role)) };
  }
  if (stage.type === 'Metaspace') {
    const scheme = stage.prepend_scheme ?? (stage.add_prefix_space === false ? 'never' : 'always');
    const metaspace = { ...stage, prepend_scheme: scheme, add_prefix_space: scheme !== 'never' };
    if (role === 'decoder' || stage.split === false) return metaspace;
    // Metaspace also cuts before each mark; the library leaves that out.
    const replacement = String(stage.replacement ?? mark);
    const words = { Regex: `${replacement}[^${replacement}]*|[^${replacement}]+` };
    return {
      type: 'Sequence',
      pretokenizers: [metaspace, { type: 'Split', pattern: words, behavior: 'Isolated', invert: true }],
    };
  }
  if (stage.type === 'Split' && isObject(stage.pattern) && typeof stage.pattern.Regex === 'string')
    return { ...stage, pattern: { Regex: expandCaseInsensitive(stage.pattern.Regex) } };
  return stage;
}

const mark = '▁';
/** Cuts before each run of marks. */
const wordSplit: Json = {
  type: 'Split',
  pattern: { Regex: `${mark}+[^${mark}]*|[^${mark}]+` },
  behavior: 'Isolated',
  invert: true,
};

/**
 * Llama's tokenizers merge over the whole text at once, which takes more than linear time. Where no token holds a mark
 * after another character, no merge can cross a word, and merging word by word gives the same.
 */
function splitWords(model: Json, preTokenizer: unknown): unknown {
  const whole =
    !isObject(preTokenizer) || (preTokenizer.type === 'Metaspace' && preTokenizer.split === false);
  if (!whole || model.type !== 'BPE' || !isObject(model.vocab)) return preTokenizer;
  if (Object.keys(model.vocab).some((token) => /[^▁]▁/.test(token))) return preTokenizer;
  return isObject(preTokenizer) ? { type: 'Sequence', pretokenizers: [preTokenizer, wordSplit] } : wordSplit;
}

/** Old files leave the model's type out. */
function modelType(model: Json): unknown {
  if (model.type !== undefined) return model.type;
  if (model.merges !== undefined) return 'BPE';
  return Array.isArray(model.vocab) ? 'Unigram' : 'WordPiece';
}

/**
 * Rewrites a tokenizer.json of any age to what @xenova/transformers 2.17 expects: merges as "a b" strings, Metaspace
 * with `add_prefix_space`, absent stages as null, the longest added token first (so that it wins, as in the Rust
 * library).
 */
function normalizeTokenizerJson(json: Json): Json {
  const model = isObject(json.model) ? json.model : {};
  const merges = Array.isArray(model.merges)
    ? model.merges.map((merge: unknown) => (Array.isArray(merge) ? merge.join(' ') : merge))
    : model.merges;
  const added = Array.isArray(json.added_tokens) ? (json.added_tokens as { content: string }[]) : [];
  const type = modelType(model);
  return {
    ...json,
    model: { ...model, type, ...(merges === undefined ? {} : { merges }) },
    added_tokens: [...added].sort((a, b) => b.content.length - a.content.length),
    normalizer: json.normalizer ?? null,
    pre_tokenizer: splitWords({ ...model, type }, normalizeStage(json.pre_tokenizer, 'pre_tokenizer')),
    decoder: normalizeStage(json.decoder, 'decoder'),
    post_processor: json.post_processor ?? null,
  };
}

/** `"</s>"`, or `{"content": "</s>", ...}`, or nothing. */
export function tokenContent(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  return isObject(value) && typeof value.content === 'string' ? value.content : undefined;
}

const specialNames = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
];

/** Ids of config.json by the names of tokenizer_config.json; of several end tokens the first. */
function specialIds(config: Json): Partial<Record<string, number>> {
  const ids: Partial<Record<string, number>> = {};
  for (const name of specialNames) {
    const value = config[`${name}_id`];
    const id: unknown = Array.isArray(value) ? value[0] : value;
    if (typeof id === 'number' && id >= 0) ids[name] = id;
  }
  return ids;
}

/** The `default` of a list of named templates, or the template itself. */
function templateSource(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return undefined;
  const named = value.filter(isObject).find((entry) => entry.name === 'default');
  return typeof named?.template === 'string' ? named.template : undefined;
}

/**
 * Reads tokenizer.json and, where present, tokenizer_config.json, special_tokens_map.json and chat_template.jinja of a
 * model's folder (or of its parent, when the folder is the `onnx` inside it). Only local files are touched.
 *
 * @throws AloraError of kind model naming the file that is missing or broken.
 */
export async function readTokenizerFiles(modelDir: string): Promise<TokenizerFiles> {
  const dirs = basename(modelDir) === 'onnx' ? [modelDir, dirname(modelDir)] : [modelDir];
  for (const dir of dirs) {
    const path = join(dir, 'tokenizer.json');
    const tokenizer = await readObject(path);
    if (!tokenizer) continue;
    if (!isObject(tokenizer.model))
      throw new AloraError('model', 'TOKENIZER_BROKEN', 'tokenizer.json has no "model" object', {
        where: path,
        fix: 'save the tokenizer again: AutoTokenizer.from_pretrained(...).save_pretrained(dir) in Python',
      });
    const own = (await readObject(join(dir, 'tokenizer_config.json'))) ?? {};
    const map = (await readObject(join(dir, 'special_tokens_map.json'))) ?? {};
    const config: Json = { ...own };
    for (const name of specialNames) {
      const content = tokenContent(own[name]) ?? tokenContent(map[name]);
      if (content === undefined) delete config[name];
      else config[name] = content;
    }
    const chatTemplate =
      (await readText(join(dir, 'chat_template.jinja'))) ?? templateSource(own.chat_template);
    delete config.chat_template;
    const modelIds = specialIds((await readObject(join(dir, 'config.json'))) ?? {});
    return { path, tokenizer: normalizeTokenizerJson(tokenizer), config, chatTemplate, modelIds };
  }
  throw new AloraError('model', 'TOKENIZER_MISSING', 'the model folder has no tokenizer.json', {
    where: join(modelDir, 'tokenizer.json'),
    fix: 'put tokenizer.json beside config.json; AutoTokenizer.from_pretrained(...).save_pretrained(dir) in Python writes it',
  });
}
