import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { prompt } from '../../src/tasks/prompt.ts';
import { type Example, isDropped, type PreparedTask, type Row, type Task } from '../../src/tasks/task.ts';
import { text } from '../../src/tasks/text.ts';
import { loadTokenizer, type Tokenizer } from '../../src/tasks/tokenizer.ts';
import fc from '../fastCheck.ts';

const load = (kind: string) =>
  loadTokenizer(join(fileURLToPath(new URL('../../fixtures/tokenizers/', import.meta.url)), kind));
const [gpt2, llama, unigram] = (await Promise.all(['gpt2', 'llama', 'unigram'].map(load))) as [
  Tokenizer,
  Tokenizer,
  Tokenizer,
];
const row = (fields: Record<string, unknown>, line = 1): Row => ({
  source: { file: 'a.jsonl', line },
  fields,
});
const example = (task: PreparedTask, fields: Record<string, unknown>): Example => {
  const outcome = task.encode(row(fields));
  if (isDropped(outcome)) throw new Error(outcome.dropped);
  return outcome;
};
const prepare = (task: Task, tokenizer: Tokenizer, maxLength = 64) => task.prepare({ tokenizer, maxLength });

describe('task text', () => {
  const words = 'the quick brown fox jumps over the lazy dog';

  it('learns every token but the first, exactly as the tokenizer gives them', () => {
    const { ids, targets, truncated } = example(prepare(text, llama), { text: words });
    expect(ids).toEqual(llama.encode(words).ids);
    expect(ids[0]).toBe(1);
    expect(targets).toEqual([...ids.slice(1), -1]);
    expect(truncated).toBe(false);
    expect(example(prepare(text, unigram), { text: words }).ids.at(-1)).toBe(1);
  });

  it('is cut to the first maxLength tokens', () => {
    const { ids, targets, truncated } = example(prepare(text, unigram, 5), { text: words });
    expect(ids).toEqual(unigram.encode(words).ids.slice(0, 5));
    expect(targets).toEqual([...ids.slice(1), -1]);
    expect(truncated).toBe(true);
  });

  it('drops what leaves nothing to learn and refuses what is not text', () => {
    const task = prepare(text, gpt2);
    expect(task.encode(row({ text: ' \n' }))).toEqual({ dropped: 'empty text' });
    expect(task.encode(row({ text: 'a' }))).toMatchObject({
      dropped: expect.stringContaining('single token'),
    });
    expect(() => task.encode(row({ txt: 'a' }, 7))).toThrow(
      expect.objectContaining({
        kind: 'data',
        code: 'DATA_MISSING_FIELD',
        details: expect.objectContaining({
          where: 'a.jsonl:7',
          didYouMean: 'txt',
          fix: expect.stringContaining('data.columns: {text: txt}'),
        }),
      }),
    );
    expect(() => task.encode(row({ text: 3 }))).toThrow(/must be a string, but is number/);
  });

  it('cuts a document into blocks and keeps a last block of two tokens', () => {
    const document = 'the quick brown fox\n'.repeat(10);
    const { ids } = llama.encode(document);
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 60 }), (maxLength) => {
        const blocks = prepare(text, llama, maxLength).encodeDocument!(document, 'book.txt');
        const rest = ids.length % maxLength;
        expect(blocks.flatMap((block) => [...block.ids])).toEqual(rest === 1 ? ids.slice(0, -1) : ids);
        for (const block of blocks.slice(0, -1)) expect(block.ids.length).toBe(maxLength);
        for (const block of blocks) expect(block.targets).toEqual([...block.ids.slice(1), -1]);
      }),
    );
  });
});

describe('task prompt', () => {
  const fields = { prompt: 'who sleeps?', completion: ' the dog' };
  const trained = ({ ids, targets }: Example) => ids.filter((_, t) => t > 0 && targets[t - 1] !== -1);

  it('masks the prompt and learns the completion and the end token', () => {
    for (const tokenizer of [gpt2, llama, unigram]) {
      const item = example(prepare(prompt, tokenizer), fields);
      const { ids, targets } = item;
      expect(targets.every((target, t) => target === -1 || target === ids[t + 1])).toBe(true);
      expect(tokenizer.decode(trained(item), { skipSpecial: true }).trim()).toBe('the dog');
      expect(trained(item).at(-1)).toBe(tokenizer.eosId);
      expect(ids.slice(0, tokenizer.prefix.length)).toEqual(tokenizer.prefix);
      expect(tokenizer.decode(ids, { skipSpecial: true })).toBe('who sleeps? the dog');
      expect(item.references).toEqual([' the dog']);
    }
  });

  it('keeps the tokens of the whole text where the prompt begins them', () => {
    const item = example(prepare(prompt, llama), { prompt: 'the date:\n', completion: '2024-03-03' });
    expect(item.ids).toEqual([1, ...llama.encodePlain('the date:\n2024-03-03'), 2]);
  });

  it('tokenises the completion alone where a token spans the boundary', () => {
    const item = example(prepare(prompt, gpt2), { prompt: 'th', completion: 'e dog' });
    expect(item.ids).toEqual([...gpt2.encodePlain('th'), ...gpt2.encodePlain('e dog'), 0]);
    expect(item.boundaryInToken).toBe(true);
    expect(gpt2.encodePlain('the dog')).not.toEqual(item.ids.slice(0, -1));
  });

  it('cuts the prompt from the left and keeps the completion', () => {
    const whole = example(prepare(prompt, llama), fields);
    const answer = trained(whole);
    const cut = example(prepare(prompt, llama, answer.length + 4), fields);
    expect(cut.ids).toEqual([1, ...whole.ids.slice(-answer.length - 3)]);
    expect(trained(cut)).toEqual(answer);
    expect(cut.truncated).toBe(true);
    const short = example(prepare(prompt, llama, answer.length), fields);
    expect(trained(short)).toEqual(answer.slice(0, -2));
    expect(short.ids.length).toBe(answer.length);
  });

  it('never passes maxLength and never learns a prompt token', () => {
    const words = fc.array(fc.constantFrom('the', 'dog', ' ', 'fox,', '\n', '😀'), { maxLength: 12 });
    fc.assert(
      fc.property(words, words, fc.integer({ min: 2, max: 24 }), (p, c, maxLength) => {
        const [promptText, completion] = [p.join(' '), c.join(' ')];
        const outcome = prepare(prompt, llama, maxLength).encode(row({ prompt: promptText, completion }));
        if (isDropped(outcome)) return;
        expect(outcome.ids.length).toBeLessThanOrEqual(maxLength);
        const first = outcome.targets.findIndex((target) => target !== -1);
        const last = outcome.targets.findLastIndex((target) => target !== -1);
        expect(outcome.targets.slice(first, last + 1)).not.toContain(-1);
        expect(last).toBe(outcome.ids.length - 2);
        if (!outcome.truncated) expect(outcome.ids.at(-1)).toBe(llama.eosId);
      }),
    );
  });

  it('drops an empty completion', () => {
    expect(prepare(prompt, gpt2).encode(row({ prompt: 'a', completion: ' ' }))).toEqual({
      dropped: 'empty completion',
    });
  });
});
