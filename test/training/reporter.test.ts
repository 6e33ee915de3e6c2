import { describe, expect, it } from 'vitest';
import { combineReporters } from '../../src/training/reporter.ts';

describe('combineReporters', () => {
  it('passes every event to all, and leaves out a reporter that throws', () => {
    const seen: string[] = [];
    const all = combineReporters([
      {
        onWarning: () => {
          throw new Error('never heard');
        },
        onCheckpoint: () => {
          throw new Error('disk of the reporter is full');
        },
      },
      { onCheckpoint: (e) => seen.push(e.path), onWarning: (message) => seen.push(message) },
    ]);
    all.onCheckpoint({ step: 1, kind: 'best', path: 'best' });
    all.onCheckpoint({ step: 2, kind: 'best', path: 'best again' });
    expect(seen).toEqual([
      'a reporter failed and is left out: disk of the reporter is full',
      'best',
      'best again',
    ]);
  });

  it('leaves out one whose hook rejects, which is no crash', async () => {
    const seen: string[] = [];
    const all = combineReporters([
      {
        onCheckpoint: async ({ path }) => {
          seen.push(path);
          throw new Error('nobody answers');
        },
      },
      { onWarning: (message) => seen.push(message) },
    ]);
    for (const step of [1, 2]) all.onCheckpoint({ step, kind: 'best', path: `best ${step}` });
    await new Promise((done) => setImmediate(done));
    all.onCheckpoint({ step: 3, kind: 'best', path: 'best 3' });
    expect(seen).toEqual(['best 1', 'best 2', 'a reporter failed and is left out: nobody answers']);
  });
});
