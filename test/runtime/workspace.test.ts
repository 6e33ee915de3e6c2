import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { openWorkspace } from '../../src/runtime/workspace.ts';

/** A folder as another process would have made it. */
function folderOf(pid: number): string {
  const folder = mkdtempSync(join(tmpdir(), `onnx-alora-${hostname()}-${pid}-`));
  writeFileSync(join(folder, 'weights-0.bin'), 'x');
  return folder;
}
// Numbers above the limit of Linux belong to nobody.
const abandoned = folderOf(2 ** 22 + 1);
const inUse = folderOf(process.ppid);
afterAll(() => rmSync(inUse, { recursive: true }));

it('removes the folders of processes that were killed, and no others', () => {
  openWorkspace().close();
  expect(existsSync(abandoned)).toBe(false);
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
