import type { Split } from './data.ts';
import { type Example, type ExampleKind, formatSource } from './task.ts';
import type { Tokenizer } from './tokenizer.ts';

/** One token as the `data` verb shows it. */
export interface PreviewToken {
  readonly id: number;
  /** Its part of the text; the parts of all tokens make up the text. */
  readonly piece: string;
  /** True when the model learns to predict it, or something about it. */
  readonly trained: boolean;
  /** The class to predict for it, where tokens have classes. */
  readonly tag?: string;
}

export interface PreviewExample {
  readonly kind: ExampleKind;
  readonly where: string;
  readonly tokens: readonly PreviewToken[];
  /** The class to predict, for a model with a head. */
  readonly label?: number;
  readonly truncated: boolean;
}

/**
 * An example token by token. A token counts as trained when the position before it predicts it, when it has a tag
 * (`labels` names them), or when it is part of the span to find.
 */
export function previewExample(
  example: Example,
  tokenizer: Tokenizer,
  labels: readonly string[] = [],
): PreviewExample {
  const { kind, targets, source, truncated = false } = example;
  // A decoder that reads something else than text may have a last target behind its inputs.
  const last = targets.at(-1) ?? -1;
  const ids = kind === 'token' && last >= 0 ? [...example.ids, last] : example.ids;
  const pieces = tokenizer.pieces(ids);
  const trained = {
    token: (t: number) => t > 0 && (targets[t - 1] ?? -1) >= 0,
    tag: (t: number) => targets[t]! >= 0,
    span: (t: number) => t >= targets[0]! && t <= targets[1]!,
    sequence: () => false,
  }[kind];
  const tokens = ids.map((id, t) => ({
    id,
    piece: pieces[t] ?? '',
    trained: trained(t),
    ...(kind === 'tag' && trained(t) ? { tag: labels[targets[t]!] ?? String(targets[t]) } : {}),
  }));
  return {
    kind,
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
  /** Trained tokens (rows, for classification with a head; ends of spans). */
  readonly labels: number;
  /** labels / tokens; 1 for classification with a head and for spans. */
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
  const { kind } = examples[0] ?? {};
  const whole = kind === 'sequence' || kind === 'span' ? labels : tokens;
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
