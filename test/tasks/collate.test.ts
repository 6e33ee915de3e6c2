import { describe, expect, it } from 'vitest';
import { collate } from '../../src/tasks/collate.ts';
import type { Example } from '../../src/tasks/task.ts';

const source = { file: 'a.jsonl', line: 1 };
const token = (ids: number[], targets: number[]): Example => ({ kind: 'token', ids, targets, source });

describe('collate', () => {
  it('pads on the right and points at the trained positions', () => {
    const batch = collate([token([5, 6, 7], [6, 7, -1]), token([8, 9], [-1, -1]), token([1, 2], [2, -1])], {
      padId: 3,
      indices: [10, 4, 7],
    });
    expect(batch).toMatchObject({ kind: 'token', size: 3, length: 3, tokens: 7, labels: 3 });
    expect(Array.from(batch.inputIds, Number)).toEqual([5, 6, 7, 8, 9, 3, 1, 2, 3]);
    expect(Array.from(batch.attentionMask, Number)).toEqual([1, 1, 1, 1, 1, 0, 1, 1, 0]);
    expect(Array.from(batch.positionIds, Number)).toEqual([0, 1, 2, 0, 1, 2, 0, 1, 2]);
    expect(Array.from(batch.rows, Number)).toEqual([0, 1, 6]);
    expect(Array.from(batch.targets, Number)).toEqual([6, 7, 2]);
    expect(batch.examples).toEqual([10, 4, 7]);
    expect(batch.tokenTypeIds).toBeUndefined();
  });

  it('has one row per example for a sequence classifier', () => {
    const rows: Example[] = [
      { kind: 'sequence', ids: [2, 3, 4], typeIds: [0, 1, 1], targets: [1], source },
      { kind: 'sequence', ids: [2, 4], typeIds: [0, 0], targets: [0], source },
    ];
    const batch = collate(rows, { padId: 0, padTo: 4 });
    expect(batch).toMatchObject({ kind: 'sequence', size: 2, length: 4, labels: 2 });
    expect(Array.from(batch.rows, Number)).toEqual([0, 1]);
    expect(Array.from(batch.targets, Number)).toEqual([1, 0]);
    expect(Array.from(batch.tokenTypeIds ?? [], Number)).toEqual([0, 1, 1, 0, 0, 0, 0, 0]);
  });
});
