import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { access, constants, readdir, stat } from 'node:fs/promises';
import { basename, dirname, extname, isAbsolute, join, relative } from 'node:path';
import { AloraError, nearest } from '../errors.ts';
import { rowReaders } from './formats/index.ts';
import { readText } from './lines.ts';
import type { Row } from './task.ts';

/** What a path of the run file's `data` section stands for. */
export interface DataFiles {
  readonly kind: 'rows' | 'documents';
  /** In the order in which they are read. */
  readonly paths: readonly string[];
}

/** The path as messages and sources show it: relative to the working directory where it lies inside. */
export function displayPath(path: string): string {
  const inside = relative(process.cwd(), path);
  return inside === '' || inside.startsWith('..') || isAbsolute(inside) ? path : inside;
}

const byName = new Intl.Collator('en', { numeric: true }).compare;

async function isDirectory(path: string): Promise<boolean | undefined> {
  try {
    return (await stat(path)).isDirectory();
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw unreadable(path, cause);
  }
}

function unreadable(path: string, cause: unknown): AloraError {
  const { code } = cause as NodeJS.ErrnoException;
  return new AloraError('data', 'DATA_FILE_UNREADABLE', `the file cannot be read (${code})`, {
    where: displayPath(path),
    fix: 'check the permissions of the file',
    cause,
  });
}

/** All files under a directory, sorted so that chapter_2 comes before chapter_10; hidden ones left out. */
async function walk(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { withFileTypes: true });
  entries.sort((a, b) => byName(a.name, b.name));
  const nested = await Promise.all(
    entries
      .filter((entry) => !entry.name.startsWith('.'))
      .map((entry) => {
        const path = join(directory, entry.name);
        return entry.isDirectory() ? walk(path) : [path];
      }),
  );
  return nested.flat();
}

/** `*` and `?` within a name, `**` across folders, `{a,b}`. */
function globPattern(glob: string): RegExp {
  const source = glob.replace(/\*\*\/|\*\*|[*?]|\{[^{}]*\}|[\\^$.|+()[\]{}]/g, (part) => {
    if (part === '**/') return '(?:.*/)?';
    if (part === '**') return '.*';
    if (part === '*') return '[^/]*';
    if (part === '?') return '[^/]';
    if (part.startsWith('{') && part.length > 1)
      return `(?:${part
        .slice(1, -1)
        .split(',')
        .map((word) => word.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
        .join('|')})`;
    return `\\${part}`;
  });
  return new RegExp(`^${source}$`);
}

async function expandGlob(glob: string): Promise<string[]> {
  const parts = glob.split('/');
  const fixed = parts.slice(
    0,
    parts.findIndex((part) => /[*?{]/.test(part)),
  );
  const root = fixed.join('/') || (glob.startsWith('/') ? '/' : '.');
  if (!(await isDirectory(root))) return [];
  const pattern = globPattern(root === '.' ? glob.replace(/^(\.\/)+/, '') : glob);
  const files = await walk(root);
  return files.filter((path) => pattern.test(path.replaceAll('\\', '/')));
}

async function missing(path: string): Promise<AloraError> {
  const folder = dirname(path);
  const there = (await isDirectory(folder)) ? await readdir(folder) : undefined;
  const others = there?.filter((name) => name !== basename(path));
  const near = others && nearest(basename(path), others);
  return new AloraError('data', 'DATA_FILE_MISSING', `the data file does not exist: ${displayPath(path)}`, {
    where: displayPath(path),
    didYouMean: near && displayPath(join(folder, near)),
    fix: there?.includes(basename(path))
      ? 'this is a link to a file that does not exist: link it again'
      : there
        ? 'correct the path; a path in the run file is relative to the run file'
        : `the folder ${displayPath(folder)} does not exist either; a path in the run file is relative to the run file`,
  });
}

const allowedEndings = [...Object.keys(rowReaders), '.txt', 'a folder or glob of .txt files'];

/**
 * The files behind a path: one file, the .txt files of a folder, or what a glob matches.
 *
 * @throws AloraError of kind data when there is none, or when their endings say nothing.
 */
export async function resolveDataFiles(path: string): Promise<DataFiles> {
  const directory = await isDirectory(path);
  let paths = [path];
  if (directory) paths = (await walk(path)).filter((file) => extname(file).toLowerCase() === '.txt');
  else if (directory === undefined) {
    if (!/[*?{]/.test(path)) throw await missing(path);
    paths = await expandGlob(path);
  }
  if (paths.length === 0)
    throw new AloraError(
      'data',
      'DATA_FILE_MISSING',
      directory ? 'the folder has no .txt file' : 'the pattern matches no file',
      { where: displayPath(path), fix: 'name a file, or a glob such as data/*.jsonl' },
    );
  const endings = new Set(paths.map((file) => extname(file).toLowerCase()));
  const strange = paths.find((file) => {
    const ending = extname(file).toLowerCase();
    return ending !== '.txt' && !Object.hasOwn(rowReaders, ending);
  });
  if (strange !== undefined)
    throw new AloraError('data', 'DATA_FORMAT_UNKNOWN', 'the ending of the file is not a known format', {
      where: displayPath(strange),
      got: extname(strange) || 'no ending',
      allowed: allowedEndings,
      didYouMean: nearest(extname(strange), Object.keys(rowReaders)),
      fix: 'convert the file, or rename it after its format',
    });
  if (endings.has('.txt') && endings.size > 1)
    throw new AloraError('data', 'DATA_FORMAT_MIXED', 'the pattern matches documents (.txt) and rows', {
      where: displayPath(path),
      got: [...endings].join(', '),
      fix: 'name one kind, such as data/*.txt',
    });
  for (const file of paths)
    await access(file, constants.R_OK).catch((cause: unknown) => {
      throw unreadable(file, cause);
    });
  return { kind: endings.has('.txt') ? 'documents' : 'rows', paths };
}

/** The rows of all files, one after the other, fields renamed by `columns` (field -> column of the file). */
export async function* readRows(
  paths: readonly string[],
  columns: Readonly<Record<string, string>> = {},
): AsyncGenerator<Row> {
  for (const path of paths) {
    const read = rowReaders[extname(path).toLowerCase()];
    for await (const row of read?.(path, displayPath(path)) ?? []) yield renameFields(row, columns);
  }
}

function renameFields(row: Row, columns: Readonly<Record<string, string>>): Row {
  const renames = Object.entries(columns);
  if (renames.length === 0) return row;
  const fields: Record<string, unknown> = { ...row.fields };
  // A column that another field is read from does not count under its own name.
  for (const [field, column] of renames) if (field !== column) delete fields[column];
  for (const [field, column] of renames) {
    if (!Object.hasOwn(row.fields, column)) {
      const there = Object.keys(row.fields);
      throw new AloraError('data', 'DATA_MISSING_FIELD', `the row has no column "${column}"`, {
        where: `${row.source.file}:${row.source.line}`,
        got: there.join(', ') || 'no fields',
        didYouMean: nearest(column, there),
        fix: `correct data.columns: {${field}: ${column}}`,
      });
    }
    fields[field] = row.fields[column];
  }
  return { source: row.source, fields };
}

/** The text of a document. */
export const readDocument = (path: string): Promise<string> => readText(path, displayPath(path));

/** SHA-256 of a file's bytes, in hexadecimal. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) hash.update(chunk);
  return hash.digest('hex');
}
