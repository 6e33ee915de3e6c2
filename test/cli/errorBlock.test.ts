import pc from 'picocolors';
import { describe, expect, it } from 'vitest';
import { errorBlock, exitCodeOf } from '../../src/cli/errorBlock.ts';
import { AloraError } from '../../src/errors.ts';

const plain = pc.createColors(false);

describe('errorBlock', () => {
  it('is one block, a line for each detail', () => {
    const error = new AloraError('config', 'CONFIG_VALUE', 'train.schedule cannot be "cosin"', {
      where: 'run.yaml:3:19',
      got: 'cosin',
      allowed: ['linear', 'cosine', 'constant'],
      didYouMean: 'cosine',
      fix: 'write\ncosine',
      also: ['run.yaml:4:1: unknown key x'],
    });
    expect(errorBlock(error, plain, false)).toMatchInlineSnapshot(`
      "error[CONFIG_VALUE]: train.schedule cannot be "cosin"
        where: run.yaml:3:19
        got: cosin
        allowed: linear, cosine, constant
        did you mean: cosine
        fix: write cosine
        also: run.yaml:4:1: unknown key x
      "
    `);
    expect(exitCodeOf(error)).toBe(3);
  });

  it('shows what a file holds, and lets none of it steer the terminal', () => {
    const error = new AloraError('data', 'DATA_BAD_ROW', 'bad', { got: '\x1b[2J\0red', fix: 'mend it' });
    expect(errorBlock(error, plain, false)).toContain('  got: \uFFFD[2J\uFFFDred\n');
  });

  it('words what the operating system refuses as storage', () => {
    const error = Object.assign(new Error('ENOSPC: no space left on device, write'), {
      code: 'ENOSPC',
      syscall: 'write',
      path: 'runs/a',
    });
    expect(errorBlock(error, plain, false)).toMatch(
      /^error\[STORAGE_ENOSPC\]: the disk is full\n {2}where: runs\/a\n {2}fix: /,
    );
    expect(exitCodeOf(error)).toBe(7);
  });

  it('marks anything else as a bug, with a stack only when asked', () => {
    const error = new TypeError('x is not a function', { cause: new Error('deeper') });
    expect(errorBlock(error, plain, false)).toBe(
      'error[INTERNAL]: x is not a function\n  fix: this is a bug: report it with the output of --verbose and `npx onnx-alora env`\n',
    );
    expect(errorBlock(error, plain, true)).toMatch(/TypeError[\s\S]*errorBlock\.test\.ts[\s\S]*deeper/);
    expect(exitCodeOf(error)).toBe(1);
  });
});
