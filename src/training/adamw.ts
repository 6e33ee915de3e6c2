import type { AdapterSet } from '../adapters/adapterSet.ts';
import { isVector } from '../adapters/rewriter.ts';
import type { ParameterGroup } from '../adapters/strategy.ts';

export interface AdamWOptions {
  /** Peak rate of group `main`. */
  readonly learningRate: number;
  readonly weightDecay: number;
  readonly groups: Readonly<Record<string, ParameterGroup>>;
}

const beta1 = 0.9;
const beta2 = 0.999;

/** Global L2 norm over the gradients of all trained parameters, summed in float64. */
export function gradientNorm(adapters: AdapterSet): number {
  let squares = 0;
  for (const slot of adapters.slots) {
    if (!slot.spec.trained) continue;
    const gradient = adapters.view('gradients', slot);
    for (let i = 0; i < gradient.length; i++) squares += gradient[i]! * gradient[i]!;
  }
  return Math.sqrt(squares);
}

/** Scales all gradients by clip / (norm + 1e-6) where the norm is above clip (torch.nn.utils.clip_grad_norm_). */
export function clipGradients(adapters: AdapterSet, norm: number, clip: number): void {
  if (clip === 0 || norm <= clip) return;
  const factor = clip / (norm + 1e-6);
  const { gradients } = adapters;
  for (let i = 0; i < gradients.length; i++) gradients[i]! *= factor;
}

/**
 * One AdamW step (Loshchilov and Hutter 2019, Algorithm 2; betas 0.9 and 0.999, epsilon 1e-8) over every trained row.
 * The step count of the bias correction is kept per row, so that a grown rank starts like a new parameter.
 * Weight decay leaves out vectors (gates, biases).
 */
export function adamWStep(adapters: AdapterSet, factor: number, options: AdamWOptions): void {
  const { values, gradients, firstMoments, secondMoments, steps } = adapters;
  for (const slot of adapters.slots) {
    if (!slot.spec.trained) continue;
    const group = options.groups[slot.spec.group ?? 'main'] ?? {};
    const rate = (group.learningRate ?? options.learningRate) * factor;
    const epsilon = group.epsilon ?? 1e-8;
    const { width } = slot.spec;
    const decay = isVector(slot.spec) ? 0 : (group.weightDecay ?? options.weightDecay);
    const keep = 1 - rate * decay;
    for (let row = 0; row < slot.rows; row++) {
      const step = ++steps[slot.firstRow + row]!;
      const correction1 = rate / (1 - beta1 ** step);
      const correction2 = Math.sqrt(1 - beta2 ** step);
      const end = slot.offset + (row + 1) * width;
      for (let i = slot.offset + row * width; i < end; i++) {
        const g = gradients[i]!;
        const m = beta1 * firstMoments[i]! + (1 - beta1) * g;
        const v = beta2 * secondMoments[i]! + (1 - beta2) * g * g;
        firstMoments[i] = m;
        secondMoments[i] = v;
        values[i] = values[i]! * keep - (correction1 * m) / (Math.sqrt(v) / correction2 + epsilon);
      }
    }
  }
}
