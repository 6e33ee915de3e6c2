import type { Batch } from '../collate.ts';
import type { MetricName } from '../task.ts';

/** What a task that measures by itself sees of a batch, in the order of `batch.rows`. */
export interface PlacePredictions {
  /** The most likely class or position at each trained place [n]. */
  readonly predicted: ArrayLike<number | bigint>;
  /** Logits at the trained places [n * classes]; only where the meter asks for them. */
  readonly logits?: Float32Array;
}

/** Gathers metrics over the batches of a split. */
export interface Meter {
  /** True when `add` needs logits. */
  readonly logits?: boolean;
  add(batch: Batch, predictions: PlacePredictions): void;
  result(): Readonly<Partial<Record<MetricName, number>>>;
}
