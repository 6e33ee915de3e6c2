import { spawnSync } from 'node:child_process';
import { expect, it } from 'vitest';
import { shellWord } from '../../src/cli/paths.ts';

it('leaves plain paths as they are', () => {
  expect(shellWord('runs/my-run_2/best')).toBe('runs/my-run_2/best');
});

it('puts words in quotes that a shell would take apart', () => {
  expect(shellWord('The whale')).toBe('"The whale"');
  expect(shellWord('')).toBe('""');
});

it('writes what a shell reads back', () => {
  for (const word of [
    'a b',
    'ü 漢字',
    'say "$HOME"',
    "it's `x`",
    'back\\slash',
    'wow!',
    'two\nlines',
    '*',
    '~/x y',
  ])
    expect(spawnSync('sh', ['-c', `printf %s ${shellWord(word)}`], { encoding: 'utf8' }).stdout).toBe(word);
});
