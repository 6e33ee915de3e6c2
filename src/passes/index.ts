import type { Model } from '../onnx/graph.ts';
import { emptyCache } from './emptyCache.ts';
import { fold } from './fold.ts';
import { fuseGelu } from './fuseGelu.ts';
import { lower } from './lower.ts';
import { nameAxes } from './nameAxes.ts';
import { keepOutputs } from './prune.ts';
import { widen } from './widen.ts';

export interface PrepareOptions {
  /** Names of the values to keep as outputs; the others go, with all that only they need. */
  readonly outputs: readonly string[];
}

/**
 * Makes an inference export fit for training, in place: no cache, float32, no fused operators but Gelu, no shape
 * arithmetic that can be known beforehand, every value typed. What stays of the inputs is in `graph.inputs`.
 */
export function prepareForTraining(model: Model, { outputs }: PrepareOptions): void {
  emptyCache(model);
  nameAxes(model);
  widen(model);
  keepOutputs(model.graph, outputs);
  fold(model);
  const changed = lower(model) + fuseGelu(model);
  if (changed === 0) return;
  fold(model);
  // Fused attention read masks and lengths that its plain form does without.
  keepOutputs(model.graph, outputs);
}
