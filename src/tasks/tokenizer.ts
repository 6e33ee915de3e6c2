import { AutoTokenizer, PreTrainedTokenizer } from '@xenova/transformers/src/tokenizers.js';
import { AloraError } from '../errors.ts';
import { type Json, readTokenizerFiles, type TokenizerFiles, tokenContent } from './tokenizer-files.ts';

/** Token ids and, of equal length, token type ids (0: first text, 1: second). */
export interface Encoding {
  ids: number[];
  typeIds: number[];
}

/** An encoding made of given tokens; where the first and the second text begin in it. */
export interface AssembledEncoding extends Encoding {
  readonly at: number;
  readonly pairAt: number;
}

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
}

/** Text to token ids and back. */
export interface Tokenizer {
  /** Largest token id + 1. */
  readonly vocabSize: number;
  readonly bosId?: number;
  readonly eosId?: number;
  readonly unkId?: number;
  /** The padding token; the end token, then 0, where the tokenizer has none. */
  readonly padId: number;
  /** Ids that stand for no text, such as the end token. */
  readonly specialIds: ReadonlySet<number>;
  /** Ids that the post-processor puts before a single text. */
  readonly prefix: readonly number[];
  /** Ids that the post-processor puts after a single text. */
  readonly suffix: readonly number[];
  /** `model_max_length` of tokenizer_config.json, where it says something. */
  readonly modelMaxLength?: number;
  readonly hasChatTemplate: boolean;
  /**
   * With the post-processor's special tokens. `maxLength` cuts the texts, not the special tokens; of a pair, the
   * longer one first, as `truncation=True` does in Python.
   */
  encode(text: string, textPair?: string, maxLength?: number): Encoding;
  /** Without special tokens (but special tokens written in the text are recognised). */
  encodePlain(text: string): number[];
  /** Puts the post-processor's special tokens around tokens of one text, or of two; nothing is cut. */
  assemble(first: readonly number[], second?: readonly number[]): AssembledEncoding;
  /** Ids outside the vocabulary (models pad theirs) are left out. */
  decode(ids: readonly number[], options?: { skipSpecial?: boolean }): string;
  /** One string per id whose concatenation is the text; a character cut over several ids appears at the last. */
  pieces(ids: readonly number[]): string[];
  /**
   * The conversation as the chat template writes it.
   *
   * @throws AloraError of kind config when the tokenizer has no template, of kind data when it refuses the messages.
   */
  applyChatTemplate(messages: readonly ChatMessage[], options?: { addGenerationPrompt?: boolean }): string;
}

/**
 * Reads the tokenizer of a model's folder: local files only, nothing is fetched.
 *
 * @throws AloraError of kind model naming the file that is missing or broken.
 */
export async function loadTokenizer(modelDir: string): Promise<Tokenizer> {
  return createTokenizer(await readTokenizerFiles(modelDir));
}

function construct({ path, tokenizer, config, chatTemplate }: TokenizerFiles): PreTrainedTokenizer {
  const name = typeof config.tokenizer_class === 'string' ? config.tokenizer_class.replace(/Fast$/, '') : '';
  const classes = AutoTokenizer.TOKENIZER_CLASS_MAPPING;
  const Class = (Object.hasOwn(classes, name) ? classes[name] : undefined) ?? PreTrainedTokenizer;
  try {
    // Llama with legacy: false would replace the stages of tokenizer.json by its own; the file decides here.
    return new Class(tokenizer, { ...config, chat_template: chatTemplate, legacy: true });
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new AloraError('model', 'TOKENIZER_UNSUPPORTED', `tokenizer.json cannot be used: ${reason}`, {
      where: path,
      allowed: 'tokenizers of kind BPE, Unigram or WordPiece, as @xenova/transformers 2.17 reads them',
      fix: 'save the tokenizer again: AutoTokenizer.from_pretrained(...).save_pretrained(dir) in Python',
      cause,
    });
  }
}

/** RoBERTa's post-processor gives type 0 to both texts; the library gives 1 to the second. */
function hasRobertaProcessing(stage: unknown): boolean {
  const { type, processors } = (stage ?? {}) as Json;
  return type === 'RobertaProcessing' || (Array.isArray(processors) && processors.some(hasRobertaProcessing));
}

/** Lengths to keep of two texts that together may have `room` tokens: the longer gives first. */
function longestFirst(first: number, second: number, room: number): [number, number] {
  if (first + second <= room) return [first, second];
  let [short, long] = first <= second ? [first, second] : [second, first];
  long = short > room ? short : Math.max(short, room - short);
  if (short + long > room) {
    short = Math.floor(room / 2);
    long = room - short;
  }
  return first <= second ? [short, long] : [long, short];
}

/** The tokenizer that a pair of already read files describes. */
export function createTokenizer(files: TokenizerFiles): Tokenizer {
  const library = construct(files);
  const { config, chatTemplate, path } = files;
  const { model } = library;
  const singleType = hasRobertaProcessing(files.tokenizer.post_processor);
  const cleanUp = config.clean_up_tokenization_spaces === true;
  const idOf = (token: string): number | undefined => model.tokens_to_ids.get(token) ?? model.unk_token_id;
  const special = (name: string): number | undefined => {
    const content = tokenContent(config[name]);
    return content === undefined ? files.modelIds?.[name] : model.tokens_to_ids.get(content);
  };

  // A piece outside the vocabulary of a tokenizer without an unknown token is dropped, as the Rust library does.
  const tokenize = (text: string) => library._encode_text(text).filter((token) => idOf(token) !== undefined);
  const toId = (token: string): number => {
    const id = idOf(token);
    if (id !== undefined) return id;
    throw new AloraError('model', 'TOKENIZER_BROKEN', `the post-processor adds "${token}", which has no id`, {
      where: path,
      fix: 'add the token to added_tokens of tokenizer.json',
    });
  };
  const postProcess = (tokens: string[], pair: string[] | null): { tokens: string[]; typeIds: number[] } => {
    const done = library.post_processor?.(tokens, pair, { add_special_tokens: true });
    const all = done?.tokens ?? [...tokens, ...(pair ?? [])];
    const byLength = all.map((_, i) => (i < tokens.length ? 0 : 1));
    return { tokens: all, typeIds: singleType ? all.map(() => 0) : [...(done?.token_type_ids ?? byLength)] };
  };

  const decode = (ids: readonly number[], skipSpecial: boolean): string => {
    const known = ids.filter((id) => model.vocab[id] !== undefined);
    if (known.length === 0) return '';
    return library.decode(known, { skip_special_tokens: skipSpecial, clean_up_tokenization_spaces: cleanUp });
  };

  // The post-processor handles strings, so that a stand-in for the text tells what comes before and after it.
  const standIn = '\0';
  const frame = postProcess([standIn], null).tokens;
  const at = frame.indexOf(standIn);
  const pairStandIn = '\u0001';
  const assemble = (first: readonly number[], second?: readonly number[]): AssembledEncoding => {
    const { tokens, typeIds } = postProcess([standIn], second ? [pairStandIn] : null);
    const around = tokens.map((token, i) => {
      const own = token === standIn ? first : token === pairStandIn ? second! : [toId(token)];
      return { ids: own, typeIds: own.map(() => typeIds[i]!) };
    });
    const begin = (token: string) => {
      const before = around.slice(0, Math.max(0, tokens.indexOf(token)));
      return before.reduce((count, { ids }) => count + ids.length, 0);
    };
    return {
      ids: around.flatMap(({ ids }) => ids),
      typeIds: around.flatMap((part) => part.typeIds),
      at: begin(standIn),
      pairAt: begin(pairStandIn),
    };
  };
  const eosId = special('eos_token');
  const modelMaxLength = config.model_max_length;

  return {
    vocabSize: model.vocab.length,
    bosId: special('bos_token'),
    eosId,
    unkId: special('unk_token') ?? model.unk_token_id,
    padId: special('pad_token') ?? eosId ?? 0,
    specialIds: new Set(library.all_special_ids),
    prefix: frame.slice(0, at).map(toId),
    suffix: frame.slice(at + 1).map(toId),
    modelMaxLength:
      typeof modelMaxLength === 'number' && modelMaxLength > 0 && modelMaxLength < 1e9
        ? modelMaxLength
        : undefined,
    hasChatTemplate: chatTemplate !== undefined,

    encode(text, textPair, maxLength) {
      let first = tokenize(text);
      let second = textPair === undefined ? null : tokenize(textPair);
      if (maxLength !== undefined) {
        const room = Math.max(0, maxLength - postProcess([], second && []).tokens.length);
        const [keep, keepPair] = longestFirst(first.length, second?.length ?? 0, room);
        first = first.slice(0, keep);
        second = second?.slice(0, keepPair) ?? null;
      }
      const { tokens, typeIds } = postProcess(first, second);
      return { ids: tokens.map(toId), typeIds };
    },
    encodePlain: (text) => tokenize(text).map(toId),
    assemble,
    decode: (ids, options) => decode(ids, options?.skipSpecial ?? false),
    pieces(ids) {
      // Each piece is what its id adds to the text of the few ids before it, so that leading blanks and characters
      // that span several ids come out right.
      const pieces: string[] = [];
      let [start, shown] = [0, 0];
      for (let end = 1; end <= ids.length; end++) {
        const before = decode(ids.slice(start, shown), false);
        const now = decode(ids.slice(start, end), false);
        const complete = end === ids.length || !now.endsWith('\uFFFD');
        pieces.push(complete ? now.slice(before.length) : '');
        if (complete) [start, shown] = [shown, end];
      }
      return pieces;
    },
    applyChatTemplate(messages, options) {
      if (chatTemplate === undefined)
        throw new AloraError(
          'config',
          'CHAT_TEMPLATE_MISSING',
          "the model's tokenizer has no chat template",
          {
            where: path,
            fix: 'use task prompt, or add chat_template to tokenizer_config.json (or a chat_template.jinja file) in the model folder',
          },
        );
      try {
        return library.apply_chat_template(messages, {
          chat_template: chatTemplate,
          tokenize: false,
          add_generation_prompt: options?.addGenerationPrompt ?? false,
        });
      } catch (cause) {
        const reason = cause instanceof Error ? cause.message : String(cause);
        throw new AloraError('data', 'CHAT_TEMPLATE_REFUSED', `the chat template fails: ${reason}`, {
          where: path,
          got: messages.map((message) => message.role).join(', '),
          fix: 'check the order of the roles; a template that this Jinja does not know must be simplified',
          cause,
        });
      }
    },
  };
}
