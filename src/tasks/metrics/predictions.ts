import { type Batch, placesOf } from '../collate.ts';
import type { MetricName } from '../task.ts';

/** What the model made of a batch's trained places, in the order of `batch.rows`. */
export interface Predictions {
  /** Cross-entropy at each place, nats [n]; or their sum. */
  readonly losses: ArrayLike<number> | number;
  /** The most likely token or class at each place [n]; may be left out where no metric needs it. */
  readonly predicted?: ArrayLike<number | bigint>;
}

export interface MetricResult {
  /** Sum of the losses divided by `labels`. */
  readonly loss: number;
  /** Trained places: tokens, or rows for classification with a head. */
  readonly labels: number;
  readonly examples: number;
  /** `perplexity`: exp(loss). Accuracies: shares between 0 and 1. */
  readonly metrics: Readonly<Partial<Record<MetricName, number>>>;
}

/**
 * Gathers the metrics of a split batch by batch; sums are kept in float64.
 *
 * `tokenAccuracy` is the share of trained places whose most likely token is right. `accuracy` is the share of examples
 * of which every trained place is right: the class of a model with a head; for a decoder the tokens of the label's word,
 * which is when greedy decoding begins with that word.
 */
export function predictionMetrics(names: readonly MetricName[]) {
  let loss = 0;
  let labels = 0;
  let examples = 0;
  let rightPlaces = 0;
  let rightExamples = 0;
  let complete = true;
  return {
    add(batch: Batch, { losses, predicted }: Predictions): void {
      if (typeof losses === 'number') loss += losses;
      else for (let i = 0; i < losses.length; i++) loss += losses[i] as number;
      labels += batch.labels;
      examples += batch.size;
      if (!predicted) {
        complete = false;
        return;
      }
      const wrong = new Set<number>();
      for (let i = 0; i < batch.labels; i++) {
        if (BigInt(predicted[i] as number | bigint) === batch.targets[i]) rightPlaces++;
        else if (!batch.uncounted.has(i)) wrong.add(exampleOf(batch, i));
      }
      rightExamples += batch.size - wrong.size;
    },
    result(): MetricResult {
      const mean = labels === 0 ? Number.NaN : loss / labels;
      const all: Partial<Record<MetricName, number>> = { perplexity: Math.exp(mean) };
      if (complete && labels > 0)
        Object.assign(all, { tokenAccuracy: rightPlaces / labels, accuracy: rightExamples / examples });
      const wanted = names
        .filter((name) => all[name] !== undefined)
        .map((name) => [name, all[name]] as const);
      return { loss: mean, labels, examples, metrics: Object.fromEntries(wanted) };
    },
  };
}

/** The example (place in the batch) to which the i-th trained place belongs. */
function exampleOf(batch: Batch, i: number): number {
  return Math.floor(Number(batch.rows[i]) / placesOf(batch.kind, batch.length));
}
