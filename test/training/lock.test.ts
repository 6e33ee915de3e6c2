import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { takeLock } from '../../src/training/lock.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-lock-'));
afterAll(() => rmSync(scratch, { recursive: true }));

it('is held by one at a time, and given back', async () => {
  const path = join(scratch, 'one', '.lock');
  const release = await takeLock(path);
  await expect(takeLock(path)).rejects.toMatchObject({ kind: 'storage', code: 'OUTPUT_IN_USE' });
  const waiting = takeLock(path, 5_000);
  release();
  (await waiting)();
  expect(readdirSync(join(scratch, 'one'))).toEqual([]);
});

it('of a process that is gone, or whose number another one has now, is taken over', async () => {
  const path = join(scratch, '.lock');
  // Numbers above the limit of Linux belong to nobody.
  writeFileSync(path, JSON.stringify({ pid: 2 ** 22 + 1, began: '' }));
  (await takeLock(path))();
  writeFileSync(path, JSON.stringify({ pid: process.pid, began: 'another boot' }));
  (await takeLock(path))();
  writeFileSync(path, '{"pid":');
  (await takeLock(path))();
});
