import { readFileSync } from 'node:fs';
import { expect } from 'vitest';
import type { Decoder } from '../../src/runtime/decoder.ts';
import { generateText } from '../../src/runtime/textGeneration.ts';

/** A prompt with options of transformers' generate, and what it gave. */
export interface Case {
  readonly model: string;
  readonly prompt: number[];
  readonly options: Readonly<Record<string, unknown>>;
  readonly tokens: number[];
  readonly score?: number;
}

/** A file that fixtures/generation/make_generation.py made with transformers. */
export const casesOf = (file: string): Case[] =>
  JSON.parse(readFileSync(`fixtures/generation/${file}`, 'utf8'));

/** Generates under the case's options and expects the tokens of transformers. */
export async function expectTransformersText(
  decoder: Decoder,
  { prompt, options, tokens, score }: Case,
): Promise<void> {
  const result = await generateText(decoder, prompt, {
    maxNewTokens: options.max_new_tokens as number,
    endTokens: (options.eos_token_id as number[] | null) ?? [],
    repetitionPenalty: (options.repetition_penalty as number | undefined) ?? 1,
    beams: {
      beams: (options.num_beams as number | undefined) ?? 1,
      lengthPenalty: (options.length_penalty as number | undefined) ?? 1,
      earlyStopping: options.early_stopping === true,
    },
  });
  expect(result.tokens, JSON.stringify(options)).toEqual(tokens);
  // A sum of up to 24 log probabilities of float32 logits; the stored one is rounded to six decimals.
  if (score !== undefined) expect(Math.abs(result.score! - score)).toBeLessThan(5e-5);
}
