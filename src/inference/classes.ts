import type { ModelConfig } from '../adapters/module.ts';
import type { ClassifierNotes } from '../adapters/newClassifier.ts';
import { AloraError } from '../errors.ts';
import type { Logits } from './requests.ts';
import type { ServedAdapter } from './servedAdapter.ts';

export type Pooling = 'cls' | 'mean';

/** One example's share of an output of the graph. */
export interface OutputRow {
  readonly output: { readonly name: string; readonly dims: readonly number[]; readonly data: Float32Array };
  /** Row of the batch, and the example's own tokens there. */
  readonly index: number;
  readonly tokens: number;
  readonly classifier: ServedAdapter['classifier'];
}

/**
 * Class logits [C] of an example: those of the model's head, or the adapter's classifier over the encoder's output
 * ([B, T, H], pooled over the example's own tokens, or [B, H]).
 */
export function classLogits(
  { output: { name, dims, data }, index, tokens, classifier }: OutputRow,
  pooling: Pooling,
): Logits {
  const width = dims.at(-1)!;
  if (name === 'logits') return { dims: [width], data: data.slice(index * width, (index + 1) * width) };
  if (!classifier)
    throw new AloraError('model', 'MODEL_NO_HEAD', 'The model has no head, and the adapter brings none', {
      got: `the output ${name}`,
      allowed: 'a file with logits, or an adapter with a classifier in modules_to_save',
      fix: 'Name an adapter that was trained for classification.',
    });
  const hidden = new Float32Array(width);
  if (dims.length === 2) hidden.set(data.subarray(index * width, (index + 1) * width));
  else {
    const start = index * dims[1]! * width;
    const count = (classifier.notes?.pooling ?? pooling) === 'cls' ? 1 : tokens;
    for (let t = 0; t < count; t++)
      for (let k = 0; k < width; k++) hidden[k]! += data[start + t * width + k]! / count;
  }
  const weight = classifier.weight.toFloat32();
  const logits = Float32Array.from(classifier.bias?.toFloat32() ?? new Float32Array(weight.length / width));
  for (let c = 0; c < logits.length; c++)
    for (let k = 0; k < width; k++) logits[c]! += weight[c * width + k]! * hidden[k]!;
  return { dims: [logits.length], data: logits };
}

/**
 * Names that an adapter's own classifier brings, or those of id2label where it has as many, else LABEL_0, LABEL_1, ... as
 * transformers calls them.
 */
export function classNames(config: ModelConfig, count: number, own?: ClassifierNotes): string[] {
  const given = own?.labels ?? Object.values((config.id2label ?? {}) as Readonly<Record<string, string>>);
  return Array.from({ length: count }, (_, i) => (given.length === count ? given[i]! : `LABEL_${i}`));
}

export function softmax(logits: Float32Array): number[] {
  const most = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const powers = Array.from(logits, (value) => Math.exp(value - most));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / total);
}
