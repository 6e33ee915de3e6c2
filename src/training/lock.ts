import { existsSync, linkSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { cannotWrite, makeFolder } from '../atomicFiles.ts';
import { AloraError } from '../errors.ts';

/** A running process, told apart from a later one with the same number where the system says when it began. */
interface Owner {
  readonly pid: number;
  readonly began: string;
}

/**
 * When a process began, in the clock ticks of Linux; '' where the system does not tell, undefined where the process has
 * ended and only waits for its parent to ask how (a zombie: some containers have no init that asks).
 */
function beginningOf(pid: number): string | undefined {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    // Fields 3 and 22 of proc(5), counted behind the name, which may hold anything but ends at the last bracket.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)!.split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : `${boot} ${fields[19]}`;
  } catch {
    return '';
  }
}

function isAlive({ pid, began }: Owner): boolean {
  try {
    process.kill(pid, 0);
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === 'EPERM';
  }
  return beginningOf(pid) === began;
}

/** Whose a lock is: undefined where there is none, null where it is torn and so nobody's. */
function ownerOf(path: string): Owner | null | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Owner;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === 'ENOENT' ? undefined : null;
  }
}

/** Creates a file with its content in one step, so that no one reads it empty; false where it exists. */
function create(path: string, content: string): boolean {
  const partial = `${path}.${process.pid}.tmp`;
  writeFileSync(partial, content);
  try {
    linkSync(partial, path);
    return true;
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EEXIST') return false;
    // A file system without hard links: the file is there first and its content a moment later.
    if (existsSync(path)) return false;
    writeFileSync(path, content, { flag: 'wx' });
    return true;
  } finally {
    rmSync(partial, { force: true });
  }
}

/** Whether there is a lock, and its process is gone. */
function isAbandoned(path: string): boolean {
  const owner = ownerOf(path);
  return owner === null || (owner !== undefined && !isAlive(owner));
}

/**
 * Removes the lock of a process that is gone. One process does this at a time, and looks again first: else a second one
 * could remove the lock that a third has taken in the meantime.
 */
function removeAbandoned(path: string, mine: string): void {
  const removal = `${path}.removal.tmp`;
  if (!create(removal, mine)) {
    if (isAbandoned(removal)) rmSync(removal, { force: true });
    return;
  }
  try {
    if (isAbandoned(path)) rmSync(path, { force: true });
  } finally {
    rmSync(removal, { force: true });
  }
}

const inUse = (path: string, { pid }: Owner): AloraError =>
  new AloraError('storage', 'OUTPUT_IN_USE', 'another process works in this folder', {
    where: dirname(path),
    got: `process ${pid}`,
    fix: `wait for it to end; if there is no such process, delete ${path}`,
  });

const lockOf = (folder: string): string => join(folder, '.lock');

/** Refuses a folder that another process has claimed: for a look before long work. Errors: OUTPUT_IN_USE. */
export function refuseClaimed(folder: string): void {
  const path = lockOf(folder);
  const owner = ownerOf(path);
  if (owner && isAlive(owner)) throw inUse(path, owner);
}

/**
 * Makes a folder where there is none and takes it for this process, by the lock file `.lock`; returns what gives it
 * back. A lock whose process is gone is taken over; one whose process still ends (a worker that has lost its parent
 * finishes its step) is waited for. Errors (storage): OUTPUT_IN_USE where another process holds the folder for longer
 * than `patience` milliseconds, STORAGE_WRITE, STORAGE_FULL.
 */
export async function claimFolder(folder: string, patience = 0): Promise<() => void> {
  try {
    makeFolder(folder);
    return await takeLock(lockOf(folder), patience);
  } catch (cause) {
    throw cause instanceof AloraError ? cause : cannotWrite(folder, cause);
  }
}

async function takeLock(path: string, patience: number): Promise<() => void> {
  const mine = JSON.stringify({ pid: process.pid, began: beginningOf(process.pid) ?? '' } satisfies Owner);
  const deadline = Date.now() + patience;
  for (;;) {
    if (create(path, mine)) return () => rmSync(path, { force: true });
    const owner = ownerOf(path);
    if (owner === undefined) continue;
    if (owner === null || !isAlive(owner)) {
      removeAbandoned(path, mine);
      continue;
    }
    if (Date.now() >= deadline) throw inUse(path, owner);
    await new Promise((done) => setTimeout(done, 100));
  }
}
