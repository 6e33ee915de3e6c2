import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { AloraError } from '../errors.ts';
import { readRun } from './read.ts';
import { runPage } from './run-page.ts';

/**
 * Writes `report.html` (one file that needs nothing else) and `report/*.svg` into a run folder, from the files that lie
 * there; also for a run that has not finished. The same folder gives the same bytes.
 *
 * Returns the paths written. Throws `config` where `dir` is no run folder and `storage` where it cannot be written.
 */
export async function writeReport(dir: string): Promise<{ html: string; svgs: string[] }> {
  const { html, figures } = await runPage(await readRun(dir));
  const page = join(dir, 'report.html');
  const svgs: string[] = [];
  for (const { id, file } of figures) {
    const path = join(dir, 'report', `${id}.svg`);
    await replace(path, `${file}\n`);
    svgs.push(path);
  }
  await replace(page, html);
  return { html: page, svgs };
}

/** A reader sees the old file or the new one, never a part. */
async function replace(path: string, content: string): Promise<void> {
  const unfinished = `${path}.${process.pid}.tmp`;
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(unfinished, content);
    await rename(unfinished, path);
  } catch (cause) {
    await rm(unfinished, { force: true }).catch(() => undefined);
    const { code } = cause as NodeJS.ErrnoException;
    throw new AloraError('storage', 'REPORT_UNWRITABLE', `cannot write ${path}`, {
      where: path,
      got: code,
      fix:
        code === 'ENOSPC'
          ? 'free some disk space'
          : 'make the run folder writable for you, or copy it elsewhere',
      cause,
    });
  }
}
