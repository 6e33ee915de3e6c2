import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { type DataOptions, loadData } from '../../src/tasks/data.ts';
import { previewExample, summarizeSplit } from '../../src/tasks/preview.ts';
import { loadTokenizer } from '../../src/tasks/tokenizer.ts';

const tokenizer = await loadTokenizer(
  fileURLToPath(new URL('../../fixtures/tokenizers/gpt2', import.meta.url)),
);
const folder = mkdtempSync(join(tmpdir(), 'load-data-'));
afterAll(() => rmSync(folder, { recursive: true }));
const jsonl = (name: string, rows: unknown[]) => {
  const path = join(folder, name);
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  return path;
};
const texts = (n: number, from = 0) =>
  Array.from({ length: n }, (_, i) => ({ text: `row ${i + from} of the file` }));
const load = (options: Partial<DataOptions>) =>
  loadData({ task: 'text', maxLength: 32, seed: 0, tokenizer, ...options });
const lines = (examples: readonly { source: { line: number } }[]) =>
  examples.map(({ source }) => source.line);

describe('loadData', () => {
  it('reads the splits it is given', async () => {
    const train = jsonl('train.jsonl', texts(7));
    const dev = jsonl('dev.jsonl', texts(3, 100));
    const data = await load({ train, dev, maxRows: { train: 5 } });
    expect(lines(data.train!.examples)).toEqual([1, 2, 3, 4, 5]);
    expect(lines(data.dev!.examples)).toEqual([1, 2, 3]);
    expect(data.test).toBeUndefined();
    expect(data.warnings).toEqual([]);
    expect(data.files.map(({ split }) => split)).toEqual(['train', 'dev']);
  });

  it('splits shares off train by the seed, each row once, in file order', async () => {
    const train = jsonl('share.jsonl', texts(40));
    const split = async (seed: number) => {
      const data = await load({ train, dev: 0.1, test: 0.25, seed });
      return [data.train, data.dev, data.test].map((part) => lines(part!.examples));
    };
    const [trainLines, devLines, testLines] = (await split(1)) as [number[], number[], number[]];
    expect([trainLines.length, devLines.length, testLines.length]).toEqual([26, 4, 10]);
    for (const part of [trainLines, devLines, testLines])
      expect(part).toEqual([...part].sort((a, b) => a - b));
    expect([...trainLines, ...devLines, ...testLines].sort((a, b) => a - b)).toEqual(
      Array.from({ length: 40 }, (_, i) => i + 1),
    );
    expect(await split(1)).toEqual([trainLines, devLines, testLines]);
    expect((await split(2))[1]).not.toEqual(devLines);
  });

  it('cuts documents into blocks and splits blocks', async () => {
    writeFileSync(join(folder, 'book.txt'), 'the quick brown fox jumps over the lazy dog\n'.repeat(40));
    const data = await load({ train: join(folder, 'book.txt'), dev: 0.1, maxLength: 16 });
    const all = data.train!.rows + data.dev!.rows;
    expect(data.dev!.rows).toBe(Math.round(all * 0.1));
    expect(data.train!.examples[0]?.source).toMatchObject({ unit: 'block' });
    await expect(load({ task: 'prompt', train: join(folder, 'book.txt') })).rejects.toMatchObject({
      kind: 'config',
      code: 'TASK_NEEDS_ROWS',
    });
  });

  it('counts what it leaves out and what it cuts, with the first place', async () => {
    const train = jsonl('dropped.jsonl', [
      ...texts(4),
      { text: '' },
      { text: 'long '.repeat(100) },
      { text: ' ' },
    ]);
    const data = await load({ train });
    expect(data.train).toMatchObject({
      rows: 7,
      truncated: 1,
      dropped: [{ reason: 'empty text', count: 2, first: { line: 5 } }],
    });
    expect(data.warnings).toEqual([
      expect.stringMatching(
        /^train: 2 of 7 rows \(29 %\) left out: empty text \(the first: .*dropped\.jsonl:5\)$/,
      ),
      'train: 1 of 7 rows (15 %) cut to data.maxLength',
    ]);
  });

  it('refuses when nothing would be learnt and warns when nearly nothing would', async () => {
    const empty = Array.from({ length: 95 }, () => ({ prompt: 'a', completion: '' }));
    const train = jsonl('masked.jsonl', empty);
    await expect(load({ task: 'prompt', train })).rejects.toMatchObject({
      kind: 'data',
      code: 'DATA_NOTHING_TRAINED',
      message: expect.stringContaining('empty completion'),
    });
    const nearly = jsonl('nearly.jsonl', [
      ...empty,
      ...texts(5).map(({ text }) => ({ prompt: text, completion: text })),
    ]);
    const { warnings } = await load({ task: 'prompt', train: nearly });
    expect(warnings[0]).toBe('train: 95 of the first 100 rows leave nothing to learn: empty completion');
    const chat = jsonl('long.jsonl', [{ prompt: 'x', completion: 'y' }]);
    await expect(load({ task: 'prompt', train: chat, maxLength: 1 })).rejects.toMatchObject({
      details: { fix: 'raise data.maxLength' },
    });
  });

  it('warns of a dev file equal to train and of a maxLength beyond the tokenizer', async () => {
    const train = jsonl('same.jsonl', texts(3));
    const { warnings } = await load({ train, dev: jsonl('same2.jsonl', texts(3)), maxLength: 4096 });
    expect(warnings).toEqual([
      expect.stringContaining('takes at most 128 tokens'),
      expect.stringContaining('same content as a file of train'),
    ]);
  });

  it('hashes contents, not names', async () => {
    const hash = async (name: string, rows: unknown[]) => (await load({ train: jsonl(name, rows) })).hash;
    const first = await hash('h1.jsonl', texts(2));
    expect(first).toMatch(/^[0-9a-f]{64}$/);
    expect(await hash('h2.jsonl', texts(2))).toBe(first);
    expect(await hash('h3.jsonl', texts(3))).not.toBe(first);
  });

  it('refuses options that do not fit', async () => {
    const train = jsonl('options.jsonl', texts(3));
    const cases: [Partial<DataOptions>, string, string][] = [
      [{ train, columns: { txt: 'a' } }, 'config', 'COLUMNS_UNKNOWN_FIELD'],
      [{ train, labels: ['a', 'b'] }, 'config', 'LABELS_UNUSED'],
      [{ train, dev: 1.5 }, 'config', 'SHARE_OUT_OF_RANGE'],
      [{ dev: 0.5 }, 'config', 'SHARE_WITHOUT_TRAIN'],
      [{ train, dev: 0.5, test: 0.5 }, 'data', 'SHARE_TOO_LARGE'],
      [{ train: jsonl('empty.jsonl', []) }, 'data', 'DATA_EMPTY'],
      [{ train: join(folder, 'none.jsonl') }, 'data', 'DATA_FILE_MISSING'],
      [{ train, task: 'txt' }, 'config', 'CONFIG_UNKNOWN_TASK'],
      [{ train, task: 'prompt' }, 'data', 'DATA_MISSING_FIELD'],
    ];
    for (const [options, kind, code] of cases)
      await expect(load(options), code).rejects.toMatchObject({
        kind,
        code,
        details: { fix: expect.any(String) },
      });
  });
});

describe('preview', () => {
  it('shows each token, whether it is learnt, and the whole text', async () => {
    const train = jsonl('preview.jsonl', [{ prompt: 'who?', completion: ' the dog 日' }]);
    const { train: split } = await load({ task: 'prompt', train });
    const { tokens, where } = previewExample(split!.examples[0]!, tokenizer);
    expect(where).toMatch(/preview\.jsonl:1$/);
    const text = (trained: boolean) =>
      tokens.flatMap((t) => (t.trained === trained ? [t.piece] : [])).join('');
    expect(text(false)).toBe('who?');
    expect(text(true)).toBe(' the dog 日<|endoftext|>');
    const summary = summarizeSplit(split!);
    expect(summary).toMatchObject({ rows: 1, examples: 1, tokens: tokens.length });
    expect(summary.labels).toBe(tokens.filter((t) => t.trained).length);
    expect(summary.trainedShare).toBeCloseTo(summary.labels / summary.tokens, 12);
  });

  it('shows the last target of a decoder whose inputs do not hold it', () => {
    const { ids } = tokenizer.encode('the dog');
    const { tokens } = previewExample(
      {
        kind: 'token',
        ids: ids.slice(0, -1),
        targets: ids.slice(1),
        source: { file: 'rows.jsonl', line: 1 },
      },
      tokenizer,
    );
    expect(tokens.map(({ piece }) => piece).join('')).toBe('the dog');
    expect(tokens.map(({ trained }) => trained)).toEqual(ids.map((_, t) => t > 0));
  });
});
