import { randomStream } from '../random.ts';

/** What a metric came to over the seeds of one method. */
export interface Summary {
  /** Finished runs; failed ones are never in any of these numbers. */
  readonly n: number;
  readonly median: number;
  readonly mean: number;
  /** Sample standard deviation (n - 1 below); null for a single run. */
  readonly sd: number | null;
}

/** Mean of the differences `a - b` over the seeds that both have, with a bootstrap interval. */
export interface PairedDifference {
  readonly n: number;
  readonly mean: number;
  /** 95 % percentile interval of the mean; null below `fewestPairs` pairs. */
  readonly interval: readonly [low: number, high: number] | null;
}

/** Below this many pairs there is no interval: two differences agree in sign by chance half of the time. */
const fewestPairs = 3;
/** Samples of the bootstrap where not all can be listed. */
const resamples = 20_000;

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

export const mean = (values: readonly number[]): number => sum(values) / values.length;

/** Value at `share` (0..1) of an ascending list, interpolated linearly. */
function quantile(sorted: ArrayLike<number>, share: number): number {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low]! + (sorted[high]! - sorted[low]!) * (at - low);
}

/** The middle value; of an even number, the mean of the middle two. */
export function median(values: readonly number[]): number {
  return quantile(
    [...values].sort((a, b) => a - b),
    0.5,
  );
}

function standardDeviation(values: readonly number[]): number {
  const centre = mean(values);
  return Math.sqrt(sum(values.map((value) => (value - centre) ** 2)) / (values.length - 1));
}

/** Undefined where there is no value. */
export function summarise(values: readonly number[]): Summary | undefined {
  if (values.length === 0) return undefined;
  return {
    n: values.length,
    median: median(values),
    mean: mean(values),
    sd: values.length > 1 ? standardDeviation(values) : null,
  };
}

/**
 * 95 % percentile bootstrap interval of the mean (Efron 1979). Up to six values all n^n samples are listed, so the
 * interval is exact; beyond that 20,000 are drawn, with a seed. With few values such an interval is too narrow:
 * three seeds of equal methods agree in sign, and so exclude zero, one time in four; five seeds, one in sixteen.
 */
export function bootstrapInterval(values: readonly number[], seed = 0): readonly [number, number] {
  const n = values.length;
  const exact = n <= 6;
  const means = new Float64Array(exact ? n ** n : resamples);
  const random = randomStream(seed, 'bootstrap');
  for (let i = 0; i < means.length; i++) {
    let total = 0;
    for (let draw = 0, digits = i; draw < n; draw++, digits = Math.floor(digits / n))
      total += values[exact ? digits % n : random.integer(n)]!;
    means[i] = total / n;
  }
  means.sort();
  return [quantile(means, 0.025), quantile(means, 0.975)];
}

/** Compares two methods seed by seed. Undefined where they share no seed. */
export function pairedDifference(
  a: ReadonlyMap<number, number>,
  b: ReadonlyMap<number, number>,
): PairedDifference | undefined {
  const differences = [...a].flatMap(([seed, value]) => (b.has(seed) ? [value - b.get(seed)!] : []));
  if (differences.length === 0) return undefined;
  return {
    n: differences.length,
    mean: mean(differences),
    interval: differences.length >= fewestPairs ? bootstrapInterval(differences) : null,
  };
}

/** Whether the interval lies on one side of zero. */
export const excludesZero = ({ interval }: PairedDifference): boolean =>
  interval !== null && (interval[0] > 0 || interval[1] < 0);
