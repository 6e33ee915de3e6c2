import { type Dropped, type Example, nextTokenTargets, type Row, stringField, type Task } from './task.ts';
import type { Tokenizer } from './tokenizer.ts';

/** A row of task `prompt`, and what the named tasks make of theirs. */
export interface PromptCompletion {
  readonly prompt: string;
  readonly completion: string;
  readonly references?: readonly string[];
}

/**
 * Where the prompt's tokens begin those of the whole text, the completion's are the rest (so that SentencePiece
 * tokenizers add no blank in between). Where a token of the whole text spans the boundary, the completion is tokenised
 * alone: the prompt then looks in training as it will when text is generated from it.
 */
function joinTokens(tokenizer: Tokenizer, prompt: string, completion: string) {
  const promptIds = tokenizer.encodePlain(prompt);
  const whole = tokenizer.encodePlain(prompt + completion);
  const boundaryInToken = promptIds.some((id, i) => whole[i] !== id);
  const answer = boundaryInToken ? tokenizer.encodePlain(completion) : whole.slice(promptIds.length);
  return { promptIds, answer, boundaryInToken };
}

/**
 * Tokens of prompt and completion: what the post-processor puts before a text, the prompt, the completion, the end
 * token. Completion and end token are learnt, the prompt is masked.
 *
 * What does not fit in `maxLength` is taken off the left of the prompt, whose end says what to do; if the completion
 * does not fit by itself, one token of prompt stays and the completion loses its right end.
 */
export function encodePrompt(
  { prompt, completion, references }: PromptCompletion,
  { tokenizer, maxLength, source }: { tokenizer: Tokenizer; maxLength: number; source: Row['source'] },
): Example | Dropped {
  if (completion.trim() === '') return { dropped: 'empty completion' };
  const { prefix, eosId } = tokenizer;
  const { promptIds, answer, boundaryInToken } = joinTokens(tokenizer, prompt, completion);
  if (eosId !== undefined) answer.push(eosId);

  const room = maxLength - prefix.length;
  const kept = Math.min(promptIds.length, Math.max(1, room - answer.length));
  const before = [...prefix, ...promptIds.slice(promptIds.length - kept)];
  const ids = [...before, ...answer].slice(0, maxLength);
  const targets = nextTokenTargets(ids, (position) => position >= before.length);
  if (!targets.some((target) => target >= 0))
    return { dropped: 'no token of the completion within maxLength' };
  return {
    kind: 'token',
    ids,
    targets,
    source,
    prompt,
    completion,
    references: references ?? [completion],
    truncated: ids.length < prefix.length + promptIds.length + answer.length,
    boundaryInToken,
  };
}

/** Task `prompt`: fields `prompt` and `completion`; only the completion and the end token are learnt. */
export const prompt: Task = {
  name: 'prompt',
  fields: ['prompt', 'completion'],
  prepare: ({ tokenizer, maxLength }) => ({
    kind: 'token',
    metrics: ['perplexity', 'tokenAccuracy'],
    textMetrics: ['accuracy'],
    encode: (row) =>
      encodePrompt(
        { prompt: stringField(row, 'prompt'), completion: stringField(row, 'completion') },
        { tokenizer, maxLength, source: row.source },
      ),
  }),
};
