import type { AdaptedRuntime } from '../runtime/adaptedRuntime.ts';
import { type Batch, collate } from '../tasks/collate.ts';
import { predictionMetrics } from '../tasks/metrics/predictions.ts';
import { lengthParts, runCostOf } from '../tasks/parts.ts';
import type { Example, PreparedTask } from '../tasks/task.ts';
import type { SplitResult } from './reporter.ts';

/**
 * The rows of a split in batches of at most `batchSize`, dealt out by length so that little is padded: what is
 * evaluated is a sum over rows. Evaluation always sees the same batches.
 */
export function evaluationBatches(
  examples: readonly Example[],
  {
    batchSize,
    padId,
    tokensOfRun,
  }: { readonly batchSize: number; readonly padId: number; readonly tokensOfRun: number },
): Batch[] {
  const lengths = examples.map(({ ids }) => ids.length);
  const cost = runCostOf(examples, tokensOfRun);
  return lengthParts(lengths, { most: batchSize, tokensOfRun: cost }).map((indices) =>
    collate(
      indices.map((i) => examples[i]!),
      { padId, indices },
    ),
  );
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
