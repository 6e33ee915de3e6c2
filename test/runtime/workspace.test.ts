import type * as fs from 'node:fs';
import { existsSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it, vi } from 'vitest';
import { openWorkspace } from '../../src/runtime/workspace.ts';

/** Folders that end so are another user's: permissions would not keep root from removing them. */
const foreign = vi.hoisted(() => 'foreign');
vi.mock('node:fs', async (original) => {
  const real = await original<typeof fs>();
  return {
    ...real,
    rmSync(path: string, options?: fs.RmOptions) {
      if (path.endsWith(foreign)) throw Object.assign(new Error('not permitted'), { code: 'EPERM' });
      real.rmSync(path, options);
    },
  };
});

// A folder for temporary folders that no other process looks into: each removes what it finds abandoned.
const temporary = mkdtempSync(join(tmpdir(), 'onnx-alora-workspace-'));
vi.stubEnv('TMPDIR', temporary);

/** A folder as another process would have made it. */
function folderOf(pid: number): string {
  const folder = mkdtempSync(join(tmpdir(), `onnx-alora-${hostname()}-${pid}-`));
  writeFileSync(join(folder, 'weights-0.bin'), 'x');
  return folder;
}
// Numbers above the limit of Linux belong to nobody.
const abandoned = [folderOf(2 ** 22 + 1), folderOf(2 ** 22 + 2)];
const theirs = join(temporary, `onnx-alora-${hostname()}-${2 ** 22 + 1}-foreign`);
mkdirSync(theirs);
const inUse = folderOf(process.ppid);
afterAll(async () => {
  vi.unstubAllEnvs();
  const { rmSync: remove } = await vi.importActual<typeof fs>('node:fs');
  remove(temporary, { recursive: true });
});

it('removes the folders of processes that were killed, and no others', () => {
  openWorkspace().close();
  expect(abandoned.map((folder) => existsSync(folder))).toEqual([false, false]);
  expect(existsSync(theirs)).toBe(true);
  expect(existsSync(inUse)).toBe(true);
});

it('costs the process one listener, however many are open, and removes each when it is closed', () => {
  const before = process.listenerCount('exit');
  const workspaces = Array.from({ length: 12 }, () => openWorkspace());
  expect(process.listenerCount('exit')).toBeLessThanOrEqual(before + 1);
  for (const { folder, close } of workspaces) {
    expect(existsSync(folder)).toBe(true);
    close();
    expect(existsSync(folder)).toBe(false);
  }
});

it('leaves a given folder alone', () => {
  openWorkspace({ folder: inUse }).close();
  expect(existsSync(inUse)).toBe(true);
});
