import {
  anyField,
  type Dropped,
  type Example,
  nextTokenTargets,
  type Row,
  rowError,
  type Task,
} from './task.ts';
import type { ChatMessage, Tokenizer } from './tokenizer.ts';

/** A conversation as ids, and for each id whether an assistant wrote it. */
export interface ChatTokens {
  readonly ids: number[];
  readonly trained: boolean[];
}

function commonPrefix(a: readonly number[], b: readonly number[]): number {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}

/**
 * Where, in `upTo` (the rendering up to and including an assistant message), that message begins. A template that
 * knows `add_generation_prompt` says so itself; otherwise the message's own text is looked for.
 */
function answerStart(
  tokenizer: Tokenizer,
  before: readonly ChatMessage[],
  upTo: string,
  content: string,
): number {
  const asked = tokenizer.applyChatTemplate(before, { addGenerationPrompt: true });
  const plain = tokenizer.applyChatTemplate(before);
  if (asked !== plain && upTo.startsWith(asked)) return asked.length;
  if (!upTo.startsWith(plain)) return -1;
  const at = upTo.indexOf(content.trim(), plain.length);
  // A blank before the answer belongs to it: SentencePiece has both in one token.
  return at < 0 ? -1 : upTo.slice(0, at).trimEnd().length;
}

/**
 * Tokenises a conversation through the tokenizer's chat template and marks what assistants wrote, their end tokens
 * included. Each assistant message is found by rendering the conversation with and without it.
 *
 * @returns undefined when the template rewrites earlier messages, so that no rendering is the beginning of the next.
 */
export function tokenizeChat(tokenizer: Tokenizer, messages: readonly ChatMessage[]): ChatTokens | undefined {
  const whole = tokenizer.applyChatTemplate(messages);
  const ids = tokenizer.encodePlain(whole);
  const trained = ids.map(() => false);
  for (const [i, message] of messages.entries()) {
    if (message.role !== 'assistant') continue;
    const upTo = tokenizer.applyChatTemplate(messages.slice(0, i + 1));
    const start = answerStart(tokenizer, messages.slice(0, i), upTo, message.content);
    if (start < 0 || !whole.startsWith(upTo)) return undefined;
    const first = commonPrefix(ids, tokenizer.encodePlain(upTo.slice(0, start)));
    let last = commonPrefix(ids, tokenizer.encodePlain(upTo));
    // What a template writes after the end token (a line end) is not the assistant's.
    const end = lastSpecial(tokenizer, ids, first, last);
    if (end >= 0) last = end + 1;
    trained.fill(true, first, last);
  }
  return { ids, trained };
}

/** Position of the special token that ends the answer, if only blanks follow it; -1 if there is none. */
function lastSpecial(
  { specialIds, decode }: Tokenizer,
  ids: readonly number[],
  first: number,
  last: number,
): number {
  for (let at = last - 1; at > first; at--) {
    const id = ids[at] as number;
    if (specialIds.has(id)) return at;
    if (decode([id]).trim() !== '') return -1;
  }
  return -1;
}

function readMessages(row: Row): ChatMessage[] {
  const value = anyField(row, 'messages');
  const fix = 'write messages: [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]';
  if (!Array.isArray(value) || value.length === 0)
    throw rowError(row.source, 'field "messages" must be a list of messages', {
      got: Array.isArray(value) ? 'an empty list' : typeof value,
      fix,
    });
  return value.map((message: unknown, i) => {
    const { role, content } = (message ?? {}) as Record<string, unknown>;
    if (typeof role === 'string' && typeof content === 'string') return { role, content };
    const which = typeof role === 'string' ? 'content' : 'role';
    throw rowError(row.source, `message ${i + 1} has no ${which} that is a string`, {
      got: JSON.stringify(message)?.slice(0, 80),
      fix,
    });
  });
}

function encodeChat(row: Row, tokenizer: Tokenizer, maxLength: number): Example | Dropped {
  const messages = readMessages(row);
  const lastAnswer = messages.findLastIndex(({ role }) => role === 'assistant');
  if (lastAnswer < 0) return { dropped: 'no message of role assistant' };
  const chat = tokenizeChat(tokenizer, messages);
  if (!chat)
    throw rowError(
      row.source,
      'the chat template rewrites earlier messages, so the answers cannot be told apart',
      {
        got: messages.map(({ role }) => role).join(', '),
        fix: 'split the conversation into rows that each end with one assistant message, or use task prompt',
      },
    );
  const ids = chat.ids.slice(0, maxLength);
  const targets = nextTokenTargets(ids, (position) => chat.trained[position] === true);
  if (!targets.some((target) => target >= 0)) return { dropped: 'no token of an assistant within maxLength' };
  return {
    kind: 'token',
    ids,
    targets,
    source: row.source,
    prompt: tokenizer.applyChatTemplate(messages.slice(0, lastAnswer), { addGenerationPrompt: true }),
    completion: messages[lastAnswer]?.content,
    truncated: ids.length < chat.ids.length,
  };
}

/**
 * Task `chat`: field `messages`, written by the tokenizer's own chat template. Only what assistants say is learnt, with
 * the token that ends their turn. Conversations are cut to the first `maxLength` tokens.
 */
export const chat: Task = {
  name: 'chat',
  fields: ['messages'],
  prepare: ({ tokenizer, maxLength }) => {
    // Refuses a tokenizer without a template before any row is read.
    if (!tokenizer.hasChatTemplate) tokenizer.applyChatTemplate([]);
    return {
      kind: 'token',
      metrics: ['perplexity', 'tokenAccuracy'],
      encode: (row) => encodeChat(row, tokenizer, maxLength),
    };
  },
};
