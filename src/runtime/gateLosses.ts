import type { GateSetting } from '../adapters/strategy.ts';
import { type AdaptedRuntime, liveGates, sum } from './adaptedRuntime.ts';
import type { GateReader, TokenBatch } from './feeds.ts';

/** A batch with its number of trained tokens. */
export type LabelledBatch = TokenBatch & { readonly labels: number };

/** The gates under a setting: those of live ranks as trained, or all off, with the exceptions turned over. */
export function gatesOf(runtime: AdaptedRuntime, setting: GateSetting): GateReader {
  const current = liveGates(runtime.adapters);
  const flipped = new Map<number, number[]>();
  for (const [module, rank] of setting.except) flipped.set(module, [...(flipped.get(module) ?? []), rank]);
  return (index, gate) => {
    const live = current(index, gate);
    const exceptions = flipped.get(index) ?? [];
    if (setting.on === 'all') {
      if (exceptions.length === 0) return live;
      const values = Float32Array.from(live);
      for (const rank of exceptions) values[rank] = 0;
      return values;
    }
    const values = new Float32Array(gate.length);
    for (const rank of exceptions) values[rank] = live[rank]!;
    return values;
  };
}

/**
 * Mean loss of the batches under each gate setting, one whole forward pass a setting and batch: the oracle that
 * faster ways are tested against. Token losses are float32, their sums float64. `breathe` is called before each
 * setting and may throw to stop.
 */
export async function naiveGateLosses(
  runtime: AdaptedRuntime,
  batches: readonly LabelledBatch[],
  settings: readonly GateSetting[],
  breathe: () => void = () => {},
): Promise<Float64Array> {
  const labels = batches.reduce((total, batch) => total + batch.labels, 0);
  const means = new Float64Array(settings.length);
  for (const [i, setting] of settings.entries()) {
    breathe();
    const gates = gatesOf(runtime, setting);
    let total = 0;
    for (const batch of batches) total += sum((await runtime.evaluate(batch, gates)).losses);
    means[i] = total / labels;
  }
  return means;
}
