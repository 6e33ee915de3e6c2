import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { hashFile, readDocument, readRows, resolveDataFiles } from '../../src/tasks/files.ts';
import { formatSource, type Row } from '../../src/tasks/task.ts';
import fc from '../fastCheck.ts';

const folder = mkdtempSync(join(tmpdir(), 'data-files-'));
afterAll(() => rmSync(folder, { recursive: true }));
const write = (name: string, content: string | Uint8Array) => {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return path;
};
const read = async (path: string, columns?: Record<string, string>) => {
  const rows: Row[] = [];
  for await (const row of readRows([path], columns)) rows.push(row);
  return rows;
};
const fieldsAndLines = async (path: string) =>
  (await read(path)).map(({ fields, source }) => [fields, source.line] as const);
const failure = async (promise: Promise<unknown>) => {
  const error = await promise.then(
    () => undefined,
    (e: unknown) => e,
  );
  const { kind, code, message, details } = error as {
    kind: string;
    code: string;
    message: string;
    details: Record<string, unknown>;
  };
  return { kind, code, message, ...details };
};

describe('row formats', () => {
  it('reads JSON Lines with blank lines, CRLF and a byte order mark', async () => {
    const path = write('a.jsonl', '\uFEFF{"text":"é"}\r\n\r\n{"text":"b","n":1}\n{"text":"c"}');
    expect(await fieldsAndLines(path)).toEqual([
      [{ text: 'é' }, 1],
      [{ text: 'b', n: 1 }, 3],
      [{ text: 'c' }, 4],
    ]);
  });

  it('reads lines of any length across chunk borders', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 50_000 }), { maxLength: 5 }), async (sizes) => {
        const path = write(
          'long.jsonl',
          sizes.map((n) => `${JSON.stringify({ text: 'é'.repeat(n) })}\n`).join(''),
        );
        expect((await read(path)).map(({ fields }) => (fields.text as string).length)).toEqual(sizes);
      }),
      { numRuns: 20 },
    );
  });

  it('reads a JSON array, an object that holds one, and JSON Lines called .json', async () => {
    const rows = [
      [{ text: 'a, ]}"' }, 2],
      [{ text: 'b', list: [1, { c: 2 }] }, 4],
    ];
    const elements = '{"text": "a, ]}\\""},\n\n {"text": "b",\n  "list": [1, {"c": 2}]}\n';
    expect(await fieldsAndLines(write('array.json', `[\n${elements}]`))).toEqual(rows);
    expect(await fieldsAndLines(write('object.json', `{"data": [\n${elements}]}`))).toEqual(rows);
    expect(await fieldsAndLines(write('lines.json', '{"text":"a"}\n{"text":"b"}\n'))).toEqual([
      [{ text: 'a' }, 1],
      [{ text: 'b' }, 2],
    ]);
    expect(await fieldsAndLines(write('none.json', '[]'))).toEqual([]);
  });

  it('reads CSV with quotes, line ends inside values, CRLF and blank lines', async () => {
    const path = write(
      'a.csv',
      '\uFEFFtext,label\r\n"one\r\n""two"", three",1\r\n\r\nsay "hi",2\r\n"last",3',
    );
    expect(await fieldsAndLines(path)).toEqual([
      [{ text: 'one\n"two", three', label: '1' }, 2],
      [{ text: 'say "hi"', label: '2' }, 5],
      [{ text: 'last', label: '3' }, 6],
    ]);
  });

  it('reads TSV with loose quotes', async () => {
    const path = write('a.tsv', 'text\tlabel\r\n"it" is\t0\n"a ""b"""\t1\n');
    expect(await fieldsAndLines(path)).toEqual([
      [{ text: '"it" is', label: '0' }, 2],
      [{ text: 'a "b"', label: '1' }, 3],
    ]);
  });

  it('reads parquet, compressed and in several row groups', async () => {
    const path = fileURLToPath(new URL('../../fixtures/tasks/rows.parquet', import.meta.url));
    const rows = await read(path);
    expect(rows.map((row) => row.fields)).toEqual([
      { text: 'one', label: 0, tags: ['a', 'b'] },
      { text: 'zwei — 二', label: 1, tags: [] },
      { text: 'three', label: 2, tags: ['c'] },
    ]);
    expect(formatSource(rows[2]!.source)).toMatch(/rows\.parquet \(row 3\)$/);
  });

  it('renames columns, also when names swap', async () => {
    const path = write('c.jsonl', '{"sentence":"s","text":"t"}\n');
    expect((await read(path, { text: 'sentence', text_pair: 'text' }))[0]?.fields).toEqual({
      text: 's',
      text_pair: 't',
    });
    expect(await failure(read(path, { text: 'sentense' }))).toMatchObject({
      code: 'DATA_MISSING_FIELD',
      where: expect.stringMatching(/c\.jsonl:1$/),
      didYouMean: 'sentence',
    });
  });
});

describe('bad rows are named by file and line', () => {
  const cases: [name: string, content: string | Uint8Array, line: number, message: RegExp][] = [
    ['broken.jsonl', '{"text":"a"}\n{"text":\n', 2, /not valid JSON/],
    ['list.jsonl', '{"text":"a"}\n\n[1]\n', 3, /not a JSON object/],
    ['latin1.jsonl', Buffer.from('{"text":"a"}\n{"text":"caf\xe9"}\n', 'latin1'), 2, /not UTF-8/],
    ['utf16.jsonl', Buffer.from('\uFEFF{"text":"a"}\n', 'utf16le'), 1, /not UTF-8/],
    ['latin1.txt.csv', Buffer.from('text\na\ncaf\xe9\n', 'latin1'), 3, /not UTF-8/],
    ['broken.json', '[\n{"text":"a"},\n{"text":}\n]', 3, /not valid JSON/],
    ['open.json', '[\n{"text":"a"},\n{"text":"b"', 3, /not valid JSON/],
    ['number.json', '[\n1\n]', 2, /not a JSON object/],
    ['many.csv', 'text,label\na,1\nb,2,3\n', 3, /not valid CSV/],
    ['quote.csv', 'text,label\na,1\n"b,2\n', 3, /not valid CSV/],
    ['twice.csv', 'text,text\na,b\n', 1, /two columns are called "text"/],
    ['few.tsv', 'text\tlabel\na\t1\nb\n', 3, /1 values, the first line 2 names/],
  ];
  for (const [name, content, line, message] of cases)
    it(name, async () => {
      const path = write(name, content);
      expect(await failure(read(path))).toMatchObject({
        kind: 'data',
        message: expect.stringMatching(message),
        where: expect.stringMatching(new RegExp(`${name.replaceAll('.', '\\.')}:${line}$`)),
        fix: expect.any(String),
      });
    });
  it('a parquet file that is none', async () => {
    expect(await failure(read(write('bad.parquet', 'not parquet at all')))).toMatchObject({
      kind: 'data',
      code: 'DATA_BAD_FILE',
    });
  });
  it('a JSON file without rows', async () => {
    expect(await failure(read(write('string.json', '"text"')))).toMatchObject({ code: 'DATA_BAD_FILE' });
  });
});

describe('paths', () => {
  write('book/chapter_10.txt', 'ten');
  write('book/chapter_2.txt', 'two');
  write('book/part/chapter_3.txt', 'three');
  write('book/notes.json', '[]');
  write('book/.hidden.txt', 'no');
  const names = (paths: readonly string[]) => paths.map((path) => path.slice(folder.length + 1));

  it('takes the .txt files of a folder in natural order', async () => {
    const { kind, paths } = await resolveDataFiles(join(folder, 'book'));
    expect(kind).toBe('documents');
    expect(names(paths)).toEqual(['book/chapter_2.txt', 'book/chapter_10.txt', 'book/part/chapter_3.txt']);
  });

  it('expands globs', async () => {
    const glob = async (pattern: string) => names((await resolveDataFiles(join(folder, pattern))).paths);
    expect(await glob('book/chapter_?.txt')).toEqual(['book/chapter_2.txt']);
    expect(await glob('book/**/*.txt')).toEqual([
      'book/chapter_2.txt',
      'book/chapter_10.txt',
      'book/part/chapter_3.txt',
    ]);
    expect(await glob('book/{chapter_2,notes}.{txt,md}')).toEqual(['book/chapter_2.txt']);
    expect((await resolveDataFiles(join(folder, 'book/*.json'))).kind).toBe('rows');
  });

  it('names what is missing, mixed or unknown, with a fix', async () => {
    write('train.jsonl', '{}');
    expect(await failure(resolveDataFiles(join(folder, 'tarin.jsonl')))).toMatchObject({
      kind: 'data',
      code: 'DATA_FILE_MISSING',
      where: join(folder, 'tarin.jsonl'),
      didYouMean: join(folder, 'train.jsonl'),
    });
    expect(await failure(resolveDataFiles(join(folder, 'no/such.jsonl')))).toMatchObject({
      code: 'DATA_FILE_MISSING',
      fix: expect.stringContaining('folder'),
    });
    expect(await failure(resolveDataFiles(join(folder, 'nothing-*.jsonl')))).toMatchObject({
      code: 'DATA_FILE_MISSING',
    });
    expect(await failure(resolveDataFiles(write('rows.jsonlines', '{}')))).toMatchObject({
      code: 'DATA_FORMAT_UNKNOWN',
      got: '.jsonlines',
    });
    expect(await failure(resolveDataFiles(join(folder, 'book/*')))).toMatchObject({
      code: 'DATA_FORMAT_MIXED',
    });
    mkdirSync(join(folder, 'empty'));
    expect(await failure(resolveDataFiles(join(folder, 'empty')))).toMatchObject({
      code: 'DATA_FILE_MISSING',
    });
  });

  it('reads documents with \\n as line end, and hashes bytes', async () => {
    expect(await readDocument(write('d.txt', '\uFEFFa\r\nb\n'))).toBe('a\nb\n');
    // The SHA-256 of "abc", FIPS 180-2.
    expect(await hashFile(write('abc.txt', 'abc'))).toBe(
      'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
    );
    expect(await failure(readDocument(write('l.txt', Buffer.from('a\nb\xff', 'latin1'))))).toMatchObject({
      code: 'DATA_NOT_UTF8',
      where: expect.stringMatching(/l\.txt:2$/),
    });
  });
});
