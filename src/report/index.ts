import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../atomicFiles.ts';
import { comparePage } from './comparePage.ts';
import { readRun } from './read.ts';
import { isComparison, readComparison } from './readCompare.ts';
import { runPage } from './runPage.ts';

/**
 * Writes `report.html` (one file that needs nothing else) and `report/*.svg` into a run folder, or the output folder
 * of a comparison, from the files that lie there; also for runs that have not finished. The same folder gives the same bytes.
 *
 * Returns the paths written. Throws `config` where `dir` is no run folder and `storage` where it cannot be written.
 */
export async function writeReport(dir: string): Promise<{ html: string; svgs: string[] }> {
  const { html, figures } = isComparison(dir)
    ? await comparePage(await readComparison(dir))
    : await runPage(await readRun(dir));
  const page = join(dir, 'report.html');
  const svgs: string[] = [];
  for (const { id, file } of figures) {
    const path = join(dir, 'report', `${id}.svg`);
    writeFileAtomic(path, [Buffer.from(`${file}\n`)]);
    svgs.push(path);
  }
  if (isComparison(dir)) removeFormer(join(dir, 'report'), svgs);
  writeFileAtomic(page, [Buffer.from(html)]);
  return { html: page, svgs };
}

/** Figures of methods that an earlier comparison in the folder had: they bear a hash that this one does not draw. */
function removeFormer(folder: string, drawn: readonly string[]): void {
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder))
    if (/-[0-9a-f]{8}-(?:ranks|change|scores)\.svg$/.test(name) && !drawn.includes(join(folder, name)))
      rmSync(join(folder, name));
}
