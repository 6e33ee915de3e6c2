import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, it } from 'vitest';
import { claimFolder } from '../../src/training/lock.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-lock-'));
afterAll(() => rmSync(scratch, { recursive: true }));

it('is held by one at a time, and given back', async () => {
  const folder = join(scratch, 'one');
  const release = await claimFolder(folder);
  await expect(claimFolder(folder)).rejects.toMatchObject({ kind: 'storage', code: 'OUTPUT_IN_USE' });
  const waiting = claimFolder(folder, 5_000);
  release();
  (await waiting)();
  expect(readdirSync(folder)).toEqual([]);
});

it('of a process that is gone, or whose number another one has now, is taken over', async () => {
  const path = join(scratch, '.lock');
  // Numbers above the limit of Linux belong to nobody.
  writeFileSync(path, JSON.stringify({ pid: 2 ** 22 + 1, began: '' }));
  (await claimFolder(scratch))();
  writeFileSync(path, JSON.stringify({ pid: process.pid, began: 'another boot' }));
  (await claimFolder(scratch))();
  writeFileSync(path, '{"pid":');
  (await claimFolder(scratch))();
});

it('is refused as a storage error where no folder can be', async () => {
  const file = join(scratch, 'file');
  writeFileSync(file, '');
  for (const folder of [file, join(file, 'below')])
    await expect(claimFolder(folder)).rejects.toMatchObject({ kind: 'storage', code: 'STORAGE_WRITE' });
});

it.skipIf(!existsSync('/proc/self/stat'))(
  'of a process that has ended, unnoticed by its parent, is taken over (needs /proc)',
  async () => {
    // The shell becomes a program that does not ask how its child ended.
    const parent = spawn('sh', ['-c', 'sleep 600 & echo $!; exec sleep 600'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    try {
      const [said] = (await once(parent.stdout, 'data')) as [Buffer];
      const pid = Number(said.toString());
      const fields = () => readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
      while (readFileSync(`/proc/${parent.pid}/comm`, 'utf8') !== 'sleep\n') await sleep(5);
      process.kill(pid, 'SIGKILL');
      while (fields()[0] !== 'Z') await sleep(5);
      const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
      writeFileSync(join(scratch, '.lock'), JSON.stringify({ pid, began: `${boot} ${fields()[19]}` }));
      (await claimFolder(scratch))();
    } finally {
      parent.kill();
    }
  },
);
