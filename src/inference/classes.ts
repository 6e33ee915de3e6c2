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

/** Whether a row gives each of its tokens a class, by the adapter's classifier, which then pools nothing. */
export function classifiesTokens({ output: { name, dims }, classifier }: OutputRow): boolean {
  return name !== 'logits' && dims.length === 3 && classifier?.notes?.pooling === 'none';
}

/**
 * Class logits [C] of an example: those of the model's head, or the adapter's classifier over the encoder's output
 * ([B, T, H], pooled over the example's own tokens, or [B, H]). Where the classifier pools nothing: [T, C].
 */
export function classLogits(row: OutputRow, pooling: Pooling): Logits {
  const { output, index, tokens, classifier } = row;
  const { name, dims, data } = output;
  const width = dims.at(-1)!;
  if (name === 'logits') return { dims: [width], data: data.slice(index * width, (index + 1) * width) };
  if (!classifier)
    throw new AloraError('model', 'MODEL_NO_HEAD', 'The model has no head, and the adapter brings none', {
      got: `the output ${name}`,
      allowed: 'a file with logits, or an adapter with a classifier in modules_to_save',
      fix: 'Name an adapter that was trained for classification.',
    });
  const weight = classifier.weight.toFloat32();
  const bias = classifier.bias?.toFloat32() ?? new Float32Array(weight.length / width);
  const positions = dims.length === 2 ? 1 : dims[1]!;
  const start = index * positions * width;
  const own = data.subarray(start, start + (dims.length === 2 ? 1 : tokens) * width);
  if (classifiesTokens(row)) return { dims: [tokens, bias.length], data: linear(own, weight, bias) };
  const isFirst = (classifier.notes?.pooling ?? pooling) === 'cls';
  const pooled = isFirst ? own.subarray(0, width) : meanOf(own, width);
  return { dims: [bias.length], data: linear(pooled, weight, bias) };
}

function meanOf(rows: Float32Array, width: number): Float32Array {
  const mean = new Float32Array(width);
  rows.forEach((value, i) => {
    mean[i % width]! += value / (rows.length / width);
  });
  return mean;
}

/** x W^T + b of rows [N, H] with a weight [C, H]. */
function linear(rows: Float32Array, weight: Float32Array, bias: Float32Array): Float32Array {
  const width = weight.length / bias.length;
  return Float32Array.from({ length: (rows.length / width) * bias.length }, (_, at) => {
    const [row, c] = [Math.floor(at / bias.length), at % bias.length];
    let sum = bias[c]!;
    for (let k = 0; k < width; k++) sum += weight[c * width + k]! * rows[row * width + k]!;
    return sum;
  });
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
