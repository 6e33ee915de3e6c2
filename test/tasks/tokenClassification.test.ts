import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { collate } from '../../src/tasks/collate.ts';
import { findTask } from '../../src/tasks/index.ts';
import { entitiesOf, entityScores } from '../../src/tasks/metrics/entities.ts';
import { previewExample } from '../../src/tasks/preview.ts';
import { type Example, isDropped, type Row } from '../../src/tasks/task.ts';
import { loadTokenizer } from '../../src/tasks/tokenizer.ts';

const load = (name: string) =>
  loadTokenizer(fileURLToPath(new URL(`../../fixtures/${name}`, import.meta.url)));
const bert = await load('models/bert');
const id2label = { 0: 'O', 1: 'B-PER', 2: 'I-PER' };
const prepared = (maxLength = 32, tokenizer = bert) =>
  findTask('token-classification').prepare({
    tokenizer,
    maxLength,
    head: { kind: 'tag', size: 3, id2label },
  });
const row = (fields: Record<string, unknown>): Row => ({ source: { file: 'ner.jsonl', line: 7 }, fields });

function encoded(fields: Record<string, unknown>, maxLength?: number): Example {
  const outcome = prepared(maxLength).encode(row(fields));
  if (isDropped(outcome)) throw new Error(outcome.dropped);
  return outcome;
}

describe('token-classification', () => {
  it('learns the first token of each word', () => {
    const example = encoded({ tokens: ['The', 'bakers', 'was'], tags: ['O', 'B-PER', 2] });
    const parts = bert.encodePlain('bakers').length;
    expect(parts).toBeGreaterThan(1);
    expect(example.ids).toEqual(bert.encode('the bakers was').ids);
    expect(example.targets).toEqual([-1, 0, 1, ...new Array(parts - 1).fill(-1), 2, -1]);
  });

  it('reads lists from text, and gives every word its space', async () => {
    const roberta = await load('tokenizers/roberta');
    const task = prepared(32, roberta);
    const example = task.encode(row({ tokens: 'fox dog', tags: '0 1' })) as Example;
    expect(example.ids).toEqual(roberta.encode(' fox dog').ids);
  });

  it('cuts at the end, special tokens kept', () => {
    const example = encoded({ tokens: ['the', 'tree', 'was'], tags: [0, 1, 2] }, 4);
    expect(example).toMatchObject({ targets: [-1, 0, 1, -1], truncated: true });
    expect(example.ids).toEqual(bert.encode('the tree').ids);
  });

  it('refuses what does not fit together by file and line', () => {
    const encode = (fields: Record<string, unknown>) => () => prepared().encode(row(fields));
    expect(encode({ tokens: ['the'], tags: [0, 1] })).toThrow(/another number of tags/);
    expect(encode({ tokens: ['the'], tags: ['B-LOC'] })).toThrow(/not a label/);
    expect(encode({ tokens: [3], tags: [0] })).toThrow(/something else than words/);
    expect(encode({ tokens: ['the'] })).toThrow(/has no field "tags"/);
    expect(prepared().encode(row({ tokens: [], tags: [] }))).toEqual({ dropped: 'no words' });
    expect(() => findTask('token-classification').prepare({ tokenizer: bert, maxLength: 8 })).toThrow(
      /a class for every token/,
    );
  });

  it('shows the class of each learnt token', () => {
    const { tokens } = previewExample(
      encoded({ tokens: ['the', 'tree'], tags: [0, 1] }),
      bert,
      Object.values(id2label),
    );
    expect(tokens.map(({ tag }) => tag)).toEqual([undefined, 'O', 'B-PER', undefined]);
  });

  it('measures words and entities over rows of any length', () => {
    const examples = [
      encoded({ tokens: ['the', 'tree', 'was'], tags: [1, 2, 0] }),
      encoded({ tokens: ['the', 'tree'], tags: [0, 1] }),
    ];
    const meter = prepared().meter!();
    // Row 1 right; row 2: an entity of two words instead of one.
    meter.add(collate(examples, { padId: 0 }), { predicted: [1n, 2n, 0n, 1n, 2n] });
    expect(meter.result()).toEqual({ accuracy: 3 / 5, precision: 1 / 2, recall: 1 / 2, f1: 1 / 2 });
  });
});

describe('entities as seqeval finds them by default', () => {
  const found = (tags: string) =>
    entitiesOf(tags.split(' ')).map(({ type, start, end }) => `${type} ${start}-${end}`);

  it.each([
    ['O B-PER I-PER O B-LOC', ['PER 1-2', 'LOC 4-4']],
    ['B-PER B-PER', ['PER 0-0', 'PER 1-1']],
    // An I- after O, or of another type, begins an entity.
    ['O I-PER I-PER', ['PER 1-2']],
    ['B-PER I-LOC I-LOC', ['PER 0-0', 'LOC 1-2']],
    ['I-PER O I-PER', ['PER 0-0', 'PER 2-2']],
    ['B-a-b I-a-b', ['a-b 0-1']],
    ['S-PER B-LOC E-LOC', ['PER 0-0', 'LOC 1-2']],
    ['O O', []],
  ])('%s', (tags, expected) => {
    expect(found(tags)).toEqual(expected);
  });

  it("scores as seqeval's own example: one of two entities right", () => {
    const scores = entityScores();
    scores.add('O O B-MISC I-MISC I-MISC I-MISC O'.split(' '), 'O O O B-MISC I-MISC I-MISC O'.split(' '));
    scores.add('B-PER I-PER O'.split(' '), 'B-PER I-PER O'.split(' '));
    expect(scores.result()).toEqual({ precision: 0.5, recall: 0.5, f1: 0.5 });
    expect(entityScores().result()).toEqual({ precision: 0, recall: 0, f1: 0 });
  });
});
