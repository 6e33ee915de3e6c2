import { AloraError } from '../errors.ts';
import { type Random, randomStream } from '../random.ts';
import { type BeamOptions, beamSearch } from './beamSearch.ts';
import type { Decoder } from './decoder.ts';
import { argmax, penalise, type SamplingOptions, sampleToken } from './tokenScores.ts';

export interface GenerationOptions {
  readonly maxNewTokens: number;
  /** Tokens that end the text; they are part of the result. See `endTokens`. */
  readonly endTokens?: readonly number[];
  /** Draws tokens with these settings; absent (and without beams): the likeliest token each time. */
  readonly sampling?: SamplingOptions & { readonly seed?: number };
  /** Beam search; not together with sampling. */
  readonly beams?: BeamOptions;
  /** Above 1: tokens that the text holds already become less likely. */
  readonly repetitionPenalty?: number;
  /** The model's longest context, prompt included: generation ends there. */
  readonly contextLength?: number;
  /** Called with each token as it is chosen; not by beam search. */
  readonly onToken?: (token: number) => void;
  readonly signal?: AbortSignal;
}

export interface Generation {
  /** The new tokens, an end token included. */
  readonly tokens: readonly number[];
  readonly finish: 'end' | 'length' | 'interrupted';
  /** Beam search: the sequence's score. */
  readonly score?: number;
}

/**
 * Continues a prompt: greedy, sampling or beam search, with the definitions of transformers.
 * Errors: PROMPT_EMPTY, PROMPT_TOO_LONG (kind data), and those of the decoder.
 */
export async function generateText(
  decoder: Decoder,
  prompt: readonly number[],
  options: GenerationOptions,
): Promise<Generation> {
  const contextLength = options.contextLength ?? Number.POSITIVE_INFINITY;
  checkPrompt(prompt, contextLength);
  const before = decoder.begins ?? prompt;
  const maxNewTokens = Math.min(options.maxNewTokens, contextLength - before.length);
  const ends = new Set(options.endTokens);
  const stopped = () => options.signal?.aborted ?? false;
  const finishOf = (tokens: readonly number[]) => {
    if (tokens.length > 0 && ends.has(tokens[tokens.length - 1]!)) return 'end';
    return tokens.length >= maxNewTokens ? 'length' : 'interrupted';
  };
  const repetitionPenalty = options.repetitionPenalty ?? 1;
  if (maxNewTokens <= 0) return { tokens: [], finish: 'length' };
  if (options.beams && options.beams.beams > 1) {
    const run = { maxNewTokens, ends, repetitionPenalty, stopped };
    const { tokens, score } = await beamSearch(decoder, prompt, options.beams, run);
    return { tokens, score, finish: finishOf(tokens) };
  }
  const choose = chooser(options);
  const tokens: number[] = [];
  let [logits] = await decoder.start([prompt]);
  while (true) {
    penalise(logits!, [...before, ...tokens], repetitionPenalty);
    const token = choose(logits!);
    tokens.push(token);
    options.onToken?.(token);
    if (ends.has(token) || tokens.length >= maxNewTokens || stopped()) break;
    [logits] = await decoder.next([0], [token]);
  }
  return { tokens, finish: finishOf(tokens) };
}

/**
 * Continues several prompts of equal length as one batch, each as `generateText` would (a row's draws are those of
 * a request of its own). A row that has ended stays in the batch, unread, until all have. No beams, no `onToken`.
 */
export async function generateRows(
  decoder: Decoder,
  prompts: readonly (readonly number[])[],
  options: Omit<GenerationOptions, 'beams' | 'onToken'>,
): Promise<Generation[]> {
  const contextLength = options.contextLength ?? Number.POSITIVE_INFINITY;
  for (const prompt of prompts) checkPrompt(prompt, contextLength);
  const longest = (decoder.begins ?? prompts[0])?.length ?? 0;
  const maxNewTokens = Math.min(options.maxNewTokens, contextLength - longest);
  const rows = prompts.map((prompt) => ({
    before: decoder.begins ?? prompt,
    tokens: [] as number[],
    finish: 'interrupted' as Generation['finish'],
    open: maxNewTokens > 0,
    choose: chooser(options),
  }));
  const parents = prompts.map((_, i) => i);
  const ends = new Set(options.endTokens);
  let logits = await decoder.start(prompts);
  while (rows.some((row) => row.open)) {
    rows.forEach((row, i) => {
      if (!row.open) return;
      penalise(logits[i]!, [...row.before, ...row.tokens], options.repetitionPenalty ?? 1);
      const token = row.choose(logits[i]!);
      row.tokens.push(token);
      if (ends.has(token)) row.finish = 'end';
      else if (row.tokens.length >= maxNewTokens) row.finish = 'length';
      row.open = row.finish === 'interrupted';
    });
    if (options.signal?.aborted || !rows.some((row) => row.open)) break;
    logits = await decoder.next(
      parents,
      rows.map((row) => row.tokens.at(-1)!),
    );
  }
  return rows.map(({ tokens, finish }) => ({ tokens, finish: maxNewTokens > 0 ? finish : 'length' }));
}

function chooser({ sampling }: Pick<GenerationOptions, 'sampling'>): (logits: Float32Array) => number {
  if (!sampling) return argmax;
  const random: Random = randomStream(sampling.seed ?? 0, 'generate');
  return (logits) => sampleToken(logits, sampling, random.uniform());
}

function checkPrompt(prompt: readonly number[], contextLength: number): void {
  if (prompt.length === 0)
    throw new AloraError('data', 'PROMPT_EMPTY', 'The prompt has no tokens', {
      fix: 'Give at least one word, or a beginning-of-text token.',
    });
  if (prompt.length >= contextLength)
    throw new AloraError('data', 'PROMPT_TOO_LONG', 'The prompt fills the whole context of the model', {
      got: `${prompt.length} tokens`,
      allowed: `fewer than ${contextLength}`,
      fix: 'Shorten the prompt.',
    });
}

/** eos_token_id of generation_config.json and config.json, one or several: the first file that names any counts. */
export function endTokens(...configs: readonly Readonly<Record<string, unknown>>[]): number[] {
  for (const { eos_token_id: id } of configs) {
    const ids = [id].flat().filter((value): value is number => typeof value === 'number');
    if (ids.length > 0) return ids;
  }
  return [];
}
