import { randomStream } from '../random.ts';

export interface EpochOptions {
  /** Examples of a micro-batch. */
  readonly batchSize: number;
  /** Micro-batches of an optimizer step. */
  readonly accumulate: number;
  readonly shuffle: boolean;
  readonly seed: number;
  /** From 0. */
  readonly epoch: number;
}

/** Steps whose examples are sorted by length together: enough to pad little, few enough to keep batches random. */
const stepsPerBucket = 32;

/** Optimizer steps of an epoch: ceil(rows / (batchSize * accumulate)). */
export function stepsPerEpoch(
  rows: number,
  { batchSize, accumulate }: Pick<EpochOptions, 'batchSize' | 'accumulate'>,
) {
  return Math.ceil(rows / (batchSize * accumulate));
}

function cut<T>(items: readonly T[], size: number): T[][] {
  const pieces: T[][] = [];
  for (let start = 0; start < items.length; start += size) pieces.push(items.slice(start, start + size));
  return pieces;
}

/**
 * The order of one epoch: steps of micro-batches of example indices. Each example comes once; every step but the last
 * has batchSize * accumulate examples. Depends on (lengths, options) alone, so that a resumed run finds its place.
 *
 * `shuffle: false` is file order. Otherwise examples are shuffled, sorted by length within buckets of 32 steps (so that
 * a batch pads little), and the micro-batches of a bucket and then all full steps are shuffled again.
 */
export function epochBatches(lengths: readonly number[], options: EpochOptions): number[][][] {
  const { batchSize, accumulate, shuffle, seed, epoch } = options;
  const order = lengths.map((_, i) => i);
  const perStep = batchSize * accumulate;
  if (!shuffle) return cut(order, perStep).map((step) => cut(step, batchSize));

  const random = randomStream(seed, 'batches', epoch);
  random.shuffle(order);
  const byLength = (a: number, b: number) => (lengths[a] as number) - (lengths[b] as number);
  const full = order.length - (order.length % perStep);
  const steps: number[][][] = [];
  for (const bucket of cut(order.slice(0, full), perStep * stepsPerBucket)) {
    const microBatches = random.shuffle(cut(bucket.sort(byLength), batchSize));
    steps.push(...cut(microBatches, accumulate));
  }
  random.shuffle(steps);
  if (full < order.length) steps.push(cut(order.slice(full).sort(byLength), batchSize));
  return steps;
}
