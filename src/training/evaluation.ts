import type { AdaptedRuntime } from '../runtime/adaptedRuntime.ts';
import { type Batch, collate } from '../tasks/collate.ts';
import { predictionMetrics } from '../tasks/metrics/predictions.ts';
import type { Example, PreparedTask } from '../tasks/task.ts';
import type { SplitResult } from './reporter.ts';

/** The rows of a split, padded into batches once; evaluation always sees the same batches. */
export function evaluationBatches(
  examples: readonly Example[],
  {
    batchSize,
    padId,
    sortByLength,
  }: { readonly batchSize: number; readonly padId: number; readonly sortByLength: boolean },
): Batch[] {
  const order = examples.map((_, i) => i);
  if (sortByLength) order.sort((a, b) => examples[a]!.ids.length - examples[b]!.ids.length || a - b);
  const batches: Batch[] = [];
  for (let at = 0; at < order.length; at += batchSize) {
    const indices = order.slice(at, at + batchSize);
    batches.push(
      collate(
        indices.map((i) => examples[i]!),
        { padId, indices },
      ),
    );
  }
  return batches;
}

/** Loss (sum of token losses over trained tokens, float64) and the task's metrics over all batches of a split. */
export async function evaluateSplit(
  runtime: AdaptedRuntime,
  batches: readonly Batch[],
  { metrics, meter: newMeter }: Pick<PreparedTask, 'metrics' | 'meter'>,
): Promise<SplitResult> {
  const totals = predictionMetrics(metrics);
  const meter = newMeter?.();
  for (const batch of batches) {
    const { losses, predictions, logits } = await runtime.evaluate(batch, undefined, meter);
    totals.add(batch, { losses, predicted: predictions });
    meter?.add(batch, { predicted: predictions, logits });
  }
  const result = totals.result();
  return { loss: result.loss, metrics: { ...result.metrics, ...meter?.result() } };
}
