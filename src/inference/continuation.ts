import type { ModelDirectory } from '../runtime/modelDirectory.ts';
import type { Generation, GenerationOptions } from '../runtime/textGeneration.ts';
import type { Tokenizer } from '../tasks/tokenizer.ts';
import { contextOf } from '../training/data.ts';
import { endsOf } from '../training/openDecoder.ts';
import type { GenerateOptions, GenerateResult } from './generate.ts';

/** How a user asks for a text. */
export type ContinuationOptions = Omit<
  GenerateOptions,
  'model' | 'file' | 'adapter' | 'prompt' | 'device' | 'threads'
>;

interface TextModel {
  readonly directory: ModelDirectory;
  readonly tokenizer: Tokenizer;
}

/** A request as the decoder's loop takes it. `onText` gets whole characters, special tokens left out. */
export function generationSettings(
  { directory, tokenizer }: TextModel,
  {
    maxNewTokens = 64,
    temperature = 0,
    topK,
    topP,
    seed,
    beams = 1,
    repetitionPenalty,
    onText,
    signal,
  }: ContinuationOptions,
): GenerationOptions {
  const written: number[] = [];
  let shown = '';
  return {
    maxNewTokens,
    endTokens: endsOf(directory, tokenizer.eosId),
    sampling: temperature > 0 ? { temperature, topK, topP, seed } : undefined,
    beams: beams > 1 ? { beams } : undefined,
    repetitionPenalty,
    contextLength: contextOf(directory.config),
    signal,
    onToken(token) {
      if (!onText) return;
      written.push(token);
      const text = tokenizer.decode(written, { skipSpecial: true });
      // A character that is cut over several tokens shows as a replacement mark until it is whole.
      if (text.endsWith('\ufffd')) return;
      onText(text.slice(shown.length));
      shown = text;
    },
  };
}

/** What was generated, as a user reads it; `seconds` went into it. */
export function continuationOf(
  { tokenizer }: Pick<TextModel, 'tokenizer'>,
  { tokens, finish }: Generation,
  seconds: number,
): Omit<GenerateResult, 'prompt'> {
  return {
    text: tokenizer.decode(tokens, { skipSpecial: true }),
    tokens: tokens.length,
    finish,
    tokensPerSecond: tokens.length / seconds,
  };
}
