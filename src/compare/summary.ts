import type { Column, VariantRecord } from './record.ts';
import {
  excludesZero,
  type PairedDifference,
  pairedDifference,
  type Summary,
  summarise,
} from './statistics.ts';

type Measured = Pick<VariantRecord, 'method' | 'point' | 'runs'>;
type Compared = Pick<VariantRecord, 'summary' | 'againstBaseline' | 'ahead'>;

/** Values of a column by seed, of finished runs. */
function bySeed({ runs }: Measured, { id }: Column): Map<number, number> {
  return new Map(
    runs.flatMap(({ seed, values }) => (values?.[id] === undefined ? [] : [[seed, values[id]]])),
  );
}

/** Statistics of one variant among all: its own spread, against the baseline, and where it is ahead of everyone. */
export function compareVariant(
  variant: Measured,
  all: readonly Measured[],
  columns: readonly Column[],
  baseline: number,
): Compared {
  const samePoint = all.filter((other) => sameValues(other.point, variant.point));
  const base = samePoint.find((other) => other.method === baseline);
  const others = samePoint.filter((other) => other.method !== variant.method);
  const summary: Record<string, Summary> = {};
  const againstBaseline: Record<string, PairedDifference> = {};
  const ahead: string[] = [];
  for (const column of columns) {
    const mine = bySeed(variant, column);
    const own = summarise([...mine.values()]);
    if (!own) continue;
    summary[column.id] = own;
    if (base && base.method !== variant.method) {
      const difference = pairedDifference(mine, bySeed(base, column));
      if (difference) againstBaseline[column.id] = difference;
    }
    const better = (difference: PairedDifference | undefined) =>
      difference !== undefined && excludesZero(difference) && difference.mean < 0 === column.lowerIsBetter;
    // A method without a finished run can be neither beaten nor the reason to withhold the mark.
    const rivals = others.filter((other) => bySeed(other, column).size > 0);
    const isAhead = (other: Measured) => {
      const theirs = bySeed(other, column);
      const median = summarise([...theirs.values()])!.median;
      const best = column.lowerIsBetter ? own.median <= median : own.median >= median;
      return best && better(pairedDifference(mine, theirs));
    };
    if (rivals.length > 0 && rivals.every(isAhead)) ahead.push(column.id);
  }
  return { summary, againstBaseline, ahead };
}

export const sameValues = (a: object, b: object): boolean => JSON.stringify(a) === JSON.stringify(b);
