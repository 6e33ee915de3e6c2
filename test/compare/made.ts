import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { runComparison } from '../../src/compare/compare.ts';
import { type CompareInput, compareInput } from '../../src/compare/file.ts';
import { inProcessRunner } from '../../src/compare/inProcessRunner.ts';
import * as strategies from '../../src/strategies.ts';
import { tinyComparison } from './comparisons.ts';

/** A finished comparison of runs of a second each, for the page. Returns its output folder. */
export async function makeComparison(
  output: string,
  changes: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  rmSync(output, { recursive: true, force: true });
  mkdirSync(join(output, '..'), { recursive: true });
  const file = await compareInput(tinyComparison(output, changes) as unknown as CompareInput, strategies);
  await runComparison(file, { runner: inProcessRunner({ strategies }) });
  return output;
}
