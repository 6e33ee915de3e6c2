import { describe, expect, it } from 'vitest';
import type { Column, RunRecord } from '../../src/compare/record.ts';
import { compareVariant } from '../../src/compare/summary.ts';

const loss: Column = { id: 'dev.loss', split: 'dev', metric: 'loss', lowerIsBetter: true };
const accuracy: Column = { id: 'dev.accuracy', split: 'dev', metric: 'accuracy', lowerIsBetter: false };

/** A method with a value of a column by seed; undefined: that run failed. */
function method(index: number, values: readonly (number | undefined)[], id: string) {
  const runs = values.map(
    (value, seed): RunRecord =>
      value === undefined
        ? { seed, folder: '', state: 'failed', failure: { kind: 'diverged', code: 'DIVERGED', message: '' } }
        : { seed, folder: '', state: 'finished', values: { [id]: value } },
  );
  return { method: index, point: {}, runs };
}

function compared(rows: readonly (readonly (number | undefined)[])[], column = loss) {
  const variants = rows.map((values, i) => method(i, values, column.id));
  return variants.map((variant) => compareVariant(variant, variants, [column], 0));
}

describe('who is ahead', () => {
  it('the method whose every paired interval excludes zero, in the direction of the metric', () => {
    const rows = [
      [3.1, 3.2, 3.0, 3.3, 3.1],
      [2.9, 3.0, 2.8, 3.1, 2.9],
      [3.3, 3.1, 3.4, 3.2, 3.3],
    ];
    expect(compared(rows).map(({ ahead }) => ahead)).toEqual([[], ['dev.loss'], []]);
    expect(compared(rows, accuracy).map(({ ahead }) => ahead)).toEqual([[], [], []]);
  });

  it('nobody where seeds disagree, where there are two, and where the median says otherwise', () => {
    const nobody = (rows: number[][]) => expect(compared(rows).flatMap(({ ahead }) => ahead)).toEqual([]);
    nobody([
      [3.1, 3.2, 3.0],
      [3.0, 3.3, 2.9],
    ]);
    nobody([
      [3.1, 3.2],
      [2.1, 2.2],
    ]);
    // Seed by seed far ahead where it wins, but the middle run is the other's.
    nobody([
      [1.0, 2.0, 2.0, 9.0, 9.0],
      [1.0, 2.0, 2.1, 5.0, 5.0],
    ]);
  });

  it('a failed run is in no mean, and pairs only with nothing', () => {
    const [first, second] = compared([
      [3, undefined, 3, 3, 3],
      [2, 100, 2, 2, undefined],
    ]);
    expect(first!.summary['dev.loss']).toMatchObject({ n: 4, mean: 3 });
    expect(second!.againstBaseline['dev.loss']).toMatchObject({ n: 3, mean: -1 });
    expect(second!.ahead).toEqual(['dev.loss']);
    expect(first!.againstBaseline).toEqual({});
  });
});
