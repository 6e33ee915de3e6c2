import { cloneModel } from '../onnx/clone.ts';
import type { Model } from '../onnx/graph.ts';
import { emptyCache } from './emptyCache.ts';
import { fold } from './fold.ts';
import { fuseGelu } from './fuseGelu.ts';
import { fuseRotary } from './fuseRotary.ts';
import { countFused, type HasKernel, lower, lowerForward, lowerSlow } from './lower.ts';
import { nameAxes } from './nameAxes.ts';
import { keepOutputs } from './prune.ts';
import { stackQueries } from './stackQueries.ts';
import { widen } from './widen.ts';

export interface PrepareOptions {
  /** Names of the values to keep as outputs; the others go, with all that only they need. */
  readonly outputs: readonly string[];
  /** Also make the forward graph that keeps the fused operators which a device has kernels for. */
  readonly forward?: HasKernel;
}

/**
 * Makes an inference export fit for training, in place: no cache, float32, no fused operators but Gelu and rotary
 * embeddings, no shape arithmetic that can be known beforehand, every value typed. What stays of the inputs is in
 * `graph.inputs`. Returns the same model with its fused operators, for what needs no gradients, if that was asked for
 * and there are any; both have the same inputs, outputs and linear layers, and share their tensors.
 */
export function prepareForTraining(model: Model, { outputs, forward }: PrepareOptions): Model | undefined {
  emptyCache(model);
  nameAxes(model);
  widen(model);
  keepOutputs(model.graph, outputs);
  fold(model);
  const slow = lowerSlow(model);
  const twin = forward && countFused(model) > 0 ? forwardTwin(model, outputs, forward) : undefined;
  const changed = slow + lower(model) + fuseGelu(model);
  if (changed > 0) {
    fold(model);
    // Fused attention read masks and lengths that its plain form does without.
    keepOutputs(model.graph, outputs);
  }
  fuseRotary(model);
  stackQueries(model);
  return twin;
}

function forwardTwin(model: Model, outputs: readonly string[], hasKernel: HasKernel): Model | undefined {
  const twin = cloneModel(model);
  lowerForward(twin, hasKernel);
  if (countFused(twin) === 0) return undefined;
  fuseGelu(twin);
  fold(twin);
  keepOutputs(twin.graph, outputs);
  return twin;
}
