import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import type { CompareRecord, VariantRecord } from '../compare/record.ts';
import { AloraError } from '../errors.ts';
import { firstIssue } from './events.ts';
import { type Run, readRun } from './read.ts';

const recordFile = 'compare.json';

/** A method at one point of the grid, with the run folders of its seeds as far as they have measured anything. */
export interface Variant extends VariantRecord {
  readonly label: string;
  readonly folders: readonly Run[];
}

export interface Comparison {
  readonly record: CompareRecord;
  readonly variants: readonly Variant[];
}

/** The parts of compare.json without which there is no page; everything else is as `compare` wrote it. */
const recordSchema = z.looseObject({
  format: z.literal(1),
  columns: z.array(z.looseObject({ id: z.string() })),
  methods: z.array(z.looseObject({ label: z.string(), strategy: z.string() })).min(1),
  variants: z.array(
    z.looseObject({ method: z.number(), runs: z.array(z.looseObject({ folder: z.string() })) }),
  ),
});

/** Whether a folder is the output of `compare`. */
export const isComparison = (dir: string): boolean => existsSync(join(dir, recordFile));

/** Reads the output folder of `compare`. Throws `config` REPORT_COMPARISON where compare.json is not one. */
export async function readComparison(dir: string): Promise<Comparison> {
  const path = join(dir, recordFile);
  const refuse = (reason: string) =>
    new AloraError('config', 'REPORT_COMPARISON', `compare.json cannot be used: ${reason}`, {
      where: path,
      fix: 'run `onnx-alora compare` again: it writes the record anew and trains nothing that has finished',
    });
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw refuse((cause as Error).message);
  }
  const parsed = recordSchema.safeParse(json);
  if (!parsed.success) throw refuse(firstIssue(parsed.error));
  const record = parsed.data as unknown as CompareRecord;
  const variants: Variant[] = [];
  for (const variant of record.variants) {
    const folders: Run[] = [];
    for (const { folder } of variant.runs)
      if (existsSync(join(dir, folder, 'metrics.jsonl'))) folders.push(await readRun(join(dir, folder)));
    variants.push({ ...variant, label: record.methods[variant.method]!.label, folders });
  }
  return { record, variants };
}
