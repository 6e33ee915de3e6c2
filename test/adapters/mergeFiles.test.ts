import { expect, it } from 'vitest';
import { type FileMakers, planFiles } from '../../src/adapters/mergeFiles.ts';
import type { Patch } from '../../src/adapters/mergePlan.ts';
import { AloraError } from '../../src/errors.ts';

const partial = new AloraError('model', 'MODEL_MERGE_NO_PLACE', 'A file holds only a part', { got: 'no q' });
const make = (files: Readonly<Record<string, 'whole' | 'part' | 'none'>>): FileMakers => ({
  branch: () => undefined,
  requantise: undefined,
  patch: (file) => {
    if (files[file] === 'part') throw partial;
    return files[file] === 'whole' ? [{ file } as Patch] : [];
  },
});

it('leaves out a file that holds only a part of the modules, with a warning, where another holds all', () => {
  const plan = planFiles(['a', 'b', 'c'], make({ a: 'part', b: 'whole', c: 'none' }));
  expect(plan.patches.map(({ file, patches }) => [file, patches.length])).toEqual([
    ['b', 1],
    ['c', 0],
  ]);
  expect(plan.leftOut).toEqual(['a']);
  expect(plan.warnings).toEqual([expect.stringMatching(/^a is left out, .*: no q$/)]);
});

it('refuses where no file holds all', () => {
  for (const c of ['none', 'part'] as const)
    expect(() => planFiles(['a', 'c'], make({ a: 'part', c }))).toThrow(partial);
});
