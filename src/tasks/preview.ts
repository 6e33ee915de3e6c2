import type { Split } from './data.ts';
import { type Example, formatSource } from './task.ts';
import type { Tokenizer } from './tokenizer.ts';

/** One token as the `data` verb shows it. */
export interface PreviewToken {
  readonly id: number;
  /** Its part of the text; the parts of all tokens make up the text. */
  readonly piece: string;
  /** True when the model learns to predict it. */
  readonly trained: boolean;
}

export interface PreviewExample {
  readonly where: string;
  readonly tokens: readonly PreviewToken[];
  /** The class to predict, for a model with a head. */
  readonly label?: number;
  readonly truncated: boolean;
}

/** An example token by token. A token counts as trained when the position before it predicts it. */
export function previewExample(example: Example, tokenizer: Tokenizer): PreviewExample {
  const { kind, ids, targets, source, truncated = false } = example;
  const pieces = tokenizer.pieces(ids);
  const tokens = ids.map((id, t) => ({
    id,
    piece: pieces[t] ?? '',
    trained: kind === 'token' && t > 0 && (targets[t - 1] ?? -1) >= 0,
  }));
  return {
    where: formatSource(source),
    tokens,
    truncated,
    ...(kind === 'sequence' ? { label: targets[0] } : {}),
  };
}

/** Lengths in tokens, and what share of them is trained. */
export interface SplitSummary {
  readonly rows: number;
  readonly examples: number;
  readonly truncated: number;
  readonly tokens: number;
  /** Trained tokens (rows, for classification with a head). */
  readonly labels: number;
  /** labels / tokens; labels / examples for classification with a head. */
  readonly trainedShare: number;
  readonly length: {
    readonly min: number;
    readonly median: number;
    readonly p95: number;
    readonly max: number;
  };
}

export function summarizeSplit({ examples, rows, truncated }: Split): SplitSummary {
  const lengths = examples.map(({ ids }) => ids.length).sort((a, b) => a - b);
  const at = (share: number) =>
    lengths[Math.min(lengths.length - 1, Math.floor(share * lengths.length))] ?? 0;
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  const labels = examples.reduce(
    (sum, { targets }) => sum + targets.filter((target) => target >= 0).length,
    0,
  );
  const whole = examples[0]?.kind === 'sequence' ? examples.length : tokens;
  return {
    rows,
    examples: examples.length,
    truncated,
    tokens,
    labels,
    trainedShare: whole === 0 ? 0 : labels / whole,
    length: { min: at(0), median: at(0.5), p95: at(0.95), max: at(1) },
  };
}
