import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { localRunner } from '../../src/compare/localRunner.ts';
import type { Job, JobEvents } from '../../src/compare/runner.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-local-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const worker = join(scratch, 'worker.mjs');
// Job `a` ends at once, others when they are interrupted.
writeFileSync(
  worker,
  `const end = (message) => process.send(message, () => process.exit(0));
process.on('message', ({ type, job }) => {
  if (type === 'run') process.send({ type: 'step', step: 1, loss: 1 });
  if (type === 'run' && job.id === 'a') end({ type: 'done' });
  if (type === 'interrupt') end({ type: 'failed', failure: { kind: 'interrupted', code: '', message: '' } });
});`,
);
const job = (id: string): Job => ({ id, folder: join(scratch, id), kind: 'run', steps: 1 });

it.each(['onStep', 'onEnd'] as const)(
  'an observer that throws in %s ends all runs, and is heard',
  async (hook) => {
    const [started, ended] = [new Set<string>(), new Set<string>()];
    const events: JobEvents = {
      onStart: ({ id }) => void started.add(id),
      onEnd: ({ id }) => void ended.add(id),
      [hook]({ id }: Job) {
        if (hook === 'onEnd') ended.add(id);
        if (id === 'a') throw new Error('the disk is full');
      },
    };
    const { run } = localRunner({ jobs: 2, worker });
    const signal = new AbortController().signal;
    await expect(run(['a', 'b', 'c'].map(job), events, signal)).rejects.toThrow('the disk is full');
    expect([...started]).toEqual(['a', 'b']);
    // No worker is left behind.
    expect(ended.has('b')).toBe(true);
  },
);
