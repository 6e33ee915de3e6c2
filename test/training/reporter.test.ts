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
});
