import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { AloraError } from './errors.ts';

/** Refusal of a file or folder that cannot be written: kind storage, STORAGE_FULL or STORAGE_WRITE. */
export function cannotWrite(path: string, cause: unknown): AloraError {
  const { code, message } = cause as NodeJS.ErrnoException;
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new AloraError('storage', 'STORAGE_FULL', 'The disk is full', {
      where: path,
      got: message,
      fix: 'Free space, then go on with --resume; what was saved before is whole.',
      cause,
    });
  return new AloraError('storage', 'STORAGE_WRITE', `Cannot write ${basename(path)}`, {
    where: path,
    got: message ?? String(cause),
    fix:
      code === 'ENOTDIR' || code === 'EEXIST'
        ? 'Choose another folder: a file stands where a folder is needed.'
        : code === 'EISDIR'
          ? 'Name a file: a folder stands there.'
          : code === 'ELOOP'
            ? 'Choose another path: its links lead in a circle.'
            : code === 'EFBIG'
              ? 'Raise the limit on the size of files (ulimit -f).'
              : 'Choose a folder that can be written.',
    cause,
  });
}

/**
 * Makes a folder and those above it. Node's own recursive mkdir never returns where a folder cannot hold others
 * (/proc), and says ENOENT where the file system is read-only.
 */
export function makeFolder(path: string): void {
  try {
    mkdirSync(path);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const exists = statSync(path, { throwIfNoEntry: false })?.isDirectory();
    if (exists) return;
    if (code !== 'ENOENT' || existsSync(dirname(path))) throw cause;
    makeFolder(dirname(path));
    makeFolder(path);
  }
}

/**
 * Writes a file whole or not at all: to `<path>.tmp`, flushed to the disk, then renamed into place. `flush: false`
 * is for files that only this process reads.
 */
export function writeFileAtomic(
  path: string,
  content: string | Iterable<Uint8Array>,
  { flush = true }: { readonly flush?: boolean } = {},
): void {
  const pieces = typeof content === 'string' ? [Buffer.from(content)] : content;
  const partial = `${path}.tmp`;
  try {
    makeFolder(dirname(path));
    const file = openSync(partial, 'w');
    try {
      for (const piece of pieces)
        for (let done = 0; done < piece.byteLength; ) done += writeSync(file, piece, done);
      if (flush) fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(partial, path);
  } catch (cause) {
    if (existsSync(partial)) rmSync(partial);
    throw cause instanceof AloraError ? cause : cannotWrite(path, cause);
  }
}

const previousEnding = '.old.tmp';
/** The previous content of a folder during the moment in which the new one takes its place. */
const previous = (folder: string) => `${folder}${previousEnding}`;

/**
 * Fills a folder and puts it in place whole: `fill` writes to `<folder>.tmp`, which then takes the place of
 * the old folder. A process that dies at any moment leaves the old content or the new; where it died between
 * the two renames, `recoverFolder` brings the old one back.
 */
export function replaceFolder(folder: string, fill: (partial: string) => void): void {
  const partial = `${folder}.tmp`;
  try {
    recoverFolder(folder);
    rmSync(partial, { recursive: true, force: true });
    makeFolder(partial);
    fill(partial);
    if (existsSync(folder)) renameSync(folder, previous(folder));
    renameSync(partial, folder);
    rmSync(previous(folder), { recursive: true, force: true });
  } catch (cause) {
    rmSync(partial, { recursive: true, force: true });
    throw cause instanceof AloraError ? cause : cannotWrite(folder, cause);
  }
}

/**
 * Fills a folder that is not there yet, or empty; an error leaves it as it was. Errors: OUTPUT_EXISTS (storage), and
 * those of `fill`.
 */
export async function fillNewFolder<T>(folder: string, fill: () => Promise<T>): Promise<T> {
  const existed = existsSync(folder);
  const isFile = existed && !statSync(folder).isDirectory();
  if (isFile || (existed && readdirSync(folder).length > 0))
    throw new AloraError(
      'storage',
      'OUTPUT_EXISTS',
      isFile ? 'The output is a file' : 'The output folder is not empty',
      { where: folder, fix: 'Choose another folder with --out.' },
    );
  try {
    return await fill();
  } catch (error) {
    // A folder that was there stays itself: it may be someone's working directory.
    const made = existed ? readdirSync(folder).map((name) => join(folder, name)) : [folder];
    for (const path of made) rmSync(path, { recursive: true, force: true });
    throw error;
  }
}

/** Undoes a replacement that a dying process left half done. Harmless otherwise. */
export function recoverFolder(folder: string): void {
  if (!existsSync(previous(folder))) return;
  if (existsSync(folder)) rmSync(previous(folder), { recursive: true, force: true });
  else renameSync(previous(folder), folder);
}

/** The same for every folder within `parent`. */
export function recoverFoldersIn(parent: string): void {
  for (const name of readdirSync(parent))
    if (name.endsWith(previousEnding)) recoverFolder(join(parent, name.slice(0, -previousEnding.length)));
}

export function writeJson(path: string, value: unknown): void {
  writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`);
}
