import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { z } from 'zod';
import { runFileJsonSchema } from '../../src/config/jsonSchema.ts';
import { runFileReference } from '../../src/config/reference.ts';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import * as strategies from '../../src/strategies.ts';

describe('runFileReference', () => {
  it('describes every key, of every strategy, in one sentence', () => {
    const rows = runFileReference(strategies)
      .split('\n')
      .filter((line) => line.startsWith('| `'));
    expect(rows.length).toBeGreaterThan(35);
    for (const row of rows) expect(row.split(' | ').at(-1)).toMatch(/^\S.*\. \|$/);
  });

  it('begins with a run file that works', () => {
    const [, example] = /```yaml\n(.*?)```/s.exec(runFileReference(strategies))!;
    const options = { strategies, baseDir: '/project', name: 'run', locate: () => 'run.yaml' };
    expect(resolveRunConfig(parse(example!), options)).toMatchObject({
      adapter: { strategy: 'alora', scorer: 'screened' },
      output: resolve('/project/runs/first'),
    });
  });

  it('stands in docs/run-file.md as it is; `npm run docs:run-file` writes it', () => {
    expect(readFileSync('docs/run-file.md', 'utf8')).toBe(runFileReference(strategies));
  });
});

describe('runFileJsonSchema', () => {
  it('has one closed variant of adapter per strategy and an open one for third parties', () => {
    const schema = runFileJsonSchema({
      lora: { options: z.strictObject({}) },
      alora: {
        options: z.strictObject({ rounds: z.int().min(1).optional().describe('Allocation rounds.') }),
      },
    });
    const [lora, alora, thirdParty] = schema.properties!.adapter!.anyOf!;
    expect([lora!.required, lora!.additionalProperties]).toEqual([[], false]);
    expect([alora!.required, alora!.additionalProperties]).toEqual([['strategy'], false]);
    expect(alora!.properties!.rounds).toMatchObject({ type: 'integer', minimum: 1 });
    expect(thirdParty!.additionalProperties).toBe(true);
  });
});
