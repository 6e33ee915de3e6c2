import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { chat, tokenizeChat } from '../../src/tasks/chat.ts';
import { isDropped, type Row } from '../../src/tasks/task.ts';
import {
  type ChatMessage,
  createTokenizer,
  loadTokenizer,
  type Tokenizer,
} from '../../src/tasks/tokenizer.ts';
import { readTokenizerFiles } from '../../src/tasks/tokenizer-files.ts';

const folder = (kind: string) =>
  join(fileURLToPath(new URL('../../fixtures/tokenizers/', import.meta.url)), kind);
const chatml = await loadTokenizer(folder('chatml'));
const llama = await loadTokenizer(folder('llama'));
const withTemplate = async (kind: string, chatTemplate: string) =>
  createTokenizer({ ...(await readTokenizerFiles(folder(kind))), chatTemplate });

const conversation: ChatMessage[] = [
  { role: 'user', content: 'who sleeps?' },
  { role: 'assistant', content: 'The dog sleeps.' },
  { role: 'user', content: 'and the fox?' },
  { role: 'assistant', content: 'It jumps.' },
];

/** The text with what is learnt in double brackets. */
function marked(tokenizer: Tokenizer, messages: readonly ChatMessage[]): string {
  const { ids, trained } = tokenizeChat(tokenizer, messages) ?? { ids: [], trained: [] };
  const pieces = tokenizer.pieces(ids);
  return pieces
    .map((piece, i) => (trained[i] ? `[[${piece}]]` : piece))
    .join('')
    .replaceAll(']][[', '');
}

describe('tokenizeChat', () => {
  it('marks answers and their end tokens with a template that knows generation prompts', () => {
    expect(marked(chatml, conversation)).toBe(
      '<|im_start|>user\nwho sleeps?<|im_end|>\n<|im_start|>assistant\n[[The dog sleeps.<|im_end|>]]\n' +
        '<|im_start|>user\nand the fox?<|im_end|>\n<|im_start|>assistant\n[[It jumps.<|im_end|>]]\n',
    );
  });

  it('finds the answers where the template does not know them', () => {
    expect(marked(llama, conversation)).toBe(
      '<s> [INST] who sleeps? [/INST][[ The dog sleeps.</s>]]<s> [INST] and the fox? [/INST][[ It jumps.</s>]]',
    );
  });

  it('marks to the end of the answer where the template writes no end token', async () => {
    const plain = await withTemplate(
      'gpt2',
      "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}",
    );
    expect(marked(plain, conversation.slice(0, 2))).toBe(
      'user: who sleeps?\nassistant:[[ The dog sleeps.\n]]',
    );
  });

  it('gives up where the template rewrites earlier answers', async () => {
    const rewriting = await withTemplate(
      'gpt2',
      "{% for m in messages %}{{ m['role'] + ': ' }}{% if loop.last %}{{ m['content'] }}{% else %}...{% endif %}{% endfor %}",
    );
    expect(tokenizeChat(rewriting, conversation)).toBeUndefined();
  });
});

describe('task chat', () => {
  const row = (messages: unknown): Row => ({ source: { file: 'c.jsonl', line: 5 }, fields: { messages } });
  const task = chat.prepare({ tokenizer: chatml, maxLength: 64 });

  it('shifts the targets once and keeps the last answer for generation', () => {
    const example = task.encode(row(conversation));
    if (isDropped(example)) throw new Error(example.dropped);
    const { ids, trained } = tokenizeChat(chatml, conversation)!;
    expect(example.targets).toEqual(ids.map((_, t) => (trained[t + 1] ? ids[t + 1] : -1)));
    expect(example.completion).toBe('It jumps.');
    expect(example.prompt?.endsWith('and the fox?<|im_end|>\n<|im_start|>assistant\n')).toBe(true);
  });

  it('is cut on the right and dropped when no answer is left', () => {
    const short = chat.prepare({ tokenizer: chatml, maxLength: 6 });
    expect(short.encode(row(conversation))).toEqual({ dropped: 'no token of an assistant within maxLength' });
    expect(task.encode(row(conversation.slice(0, 1)))).toEqual({ dropped: 'no message of role assistant' });
  });

  it('names file and line of malformed messages', () => {
    const bad: [unknown, RegExp][] = [
      ['hello', /must be a list/],
      [[], /must be a list/],
      [[{ role: 'user' }], /message 1 has no content/],
      [[{ role: 'user', content: 'a' }, null], /message 2 has no role/],
    ];
    for (const [messages, message] of bad)
      expect(() => task.encode(row(messages))).toThrow(
        expect.objectContaining({
          kind: 'data',
          message: expect.stringMatching(message),
          details: expect.objectContaining({ where: 'c.jsonl:5', fix: expect.any(String) }),
        }),
      );
  });

  it('refuses a tokenizer without a template before any row', async () => {
    const tokenizer = await loadTokenizer(folder('gpt2'));
    expect(() => chat.prepare({ tokenizer, maxLength: 8 })).toThrow(
      expect.objectContaining({ kind: 'config', code: 'CHAT_TEMPLATE_MISSING' }),
    );
  });
});
