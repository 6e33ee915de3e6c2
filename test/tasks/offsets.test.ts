import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { textAligner } from '../../src/tasks/offsets.ts';
import { loadTokenizer } from '../../src/tasks/tokenizer.ts';

const fixtures = fileURLToPath(new URL('../../fixtures/tokenizers/', import.meta.url));
const cases = JSON.parse(readFileSync(join(fixtures, 'cases.json'), 'utf8')) as Record<
  string,
  { text: string; plain: number[] }[]
>;
/** Tokenizers of encoders: they split at blanks. */
const kinds = ['bert', 'roberta', 'unigram'];

describe.each(kinds)('the characters of the tokens of %s', async (kind) => {
  const tokenizer = await loadTokenizer(join(fixtures, kind));
  const align = textAligner(tokenizer);
  // What only the end of a text decides, blanks there, has no word to belong to.
  const rows = cases[kind]!.filter(({ text }) => text === text.trimEnd());

  it.each(rows)('$text', ({ text, plain }) => {
    const { ids, spans } = align(text);
    expect(ids).toEqual(plain);
    let last = 0;
    for (const [start, end] of spans) {
      expect(start).toBeGreaterThanOrEqual(0);
      expect(end).toBeGreaterThan(start);
      expect(end).toBeGreaterThanOrEqual(last);
      last = end;
    }
    // Together the tokens cover everything but blanks.
    const covered = spans.map(([start, end]) => text.slice(start, end)).join('');
    expect(new Set(covered.replace(/\s/g, ''))).toEqual(new Set(text.replace(/\s/g, '')));
  });
});

it('finds punctuation, parts of words, and words in another case', async () => {
  const tokenizer = await loadTokenizer(
    fileURLToPath(new URL('../../fixtures/models/bert', import.meta.url)),
  );
  const text = '  The tree, Treed.\nwas é';
  const { spans } = textAligner(tokenizer)(text);
  expect(spans.map(([start, end]) => text.slice(start, end))).toEqual([
    'The',
    'tree',
    ',',
    'Tree',
    'd',
    '.',
    'was',
    'é',
  ]);
});
