import type { Example, ExampleKind, Features } from './task.ts';

/** B examples padded on the right to one length T, flattened row by row. */
export interface Batch {
  readonly kind: ExampleKind;
  /** B. */
  readonly size: number;
  /** T. */
  readonly length: number;
  /** [B * T]. */
  readonly inputIds: BigInt64Array;
  /** [B * T], 1 for a token and 0 for padding. */
  readonly attentionMask: BigInt64Array;
  /** [B * T]; present when an example has type ids. */
  readonly tokenTypeIds?: BigInt64Array;
  /** [B * T], 0 .. T - 1 in each row. */
  readonly positionIds: BigInt64Array;
  /** Inputs that are not tokens, by name, [B, ...]; present when an example has some. */
  readonly features?: Readonly<Record<string, Features>>;
  /** [n]: the trained places, ascending. Kinds `token` and `tag`: indices into B * T; `sequence`: B; `span`: B * 2. */
  readonly rows: BigInt64Array;
  /** [n]: the token id, class or position to predict at each of `rows`. */
  readonly targets: BigInt64Array;
  /** Places (0 .. n - 1) that do not count for `accuracy`. */
  readonly uncounted: ReadonlySet<number>;
  /** Input tokens without padding. */
  readonly tokens: number;
  /** n. */
  readonly labels: number;
  /** [B]: the indices that the caller gave, else 0 .. B - 1. */
  readonly examples: readonly number[];
  /** [B]: the examples themselves. */
  readonly items: readonly Example[];
}

export interface CollateOptions {
  readonly padId: number;
  /** Pad to at least this length. */
  readonly padTo?: number;
  /** Index of each example in its data set, kept with the batch. */
  readonly indices?: readonly number[];
}

/** Pads examples of one kind into a batch. */
export function collate(examples: readonly Example[], { padId, padTo = 0, indices }: CollateOptions): Batch {
  const size = examples.length;
  const length = examples.reduce((longest, { ids }) => Math.max(longest, ids.length), padTo);
  const kind = examples[0]?.kind ?? 'token';
  const inputIds = new BigInt64Array(size * length).fill(BigInt(padId));
  const attentionMask = new BigInt64Array(size * length);
  const positionIds = new BigInt64Array(size * length);
  const tokenTypeIds = examples.some(({ typeIds }) => typeIds) ? new BigInt64Array(size * length) : undefined;
  const rows: bigint[] = [];
  const targets: bigint[] = [];
  const uncounted = new Set<number>();
  let tokens = 0;
  examples.forEach((example, b) => {
    tokens += example.ids.length;
    for (let t = 0; t < length; t++) positionIds[b * length + t] = BigInt(t);
    example.ids.forEach((id, t) => {
      inputIds[b * length + t] = BigInt(id);
      attentionMask[b * length + t] = 1n;
      if (tokenTypeIds) tokenTypeIds[b * length + t] = BigInt(example.typeIds?.[t] ?? 0);
    });
    example.targets.forEach((target, t) => {
      if (target < 0) return;
      rows.push(BigInt(b * placesOf(kind, length) + t));
      targets.push(BigInt(target));
    });
    if (example.endUncounted) uncounted.add(rows.length - 1);
  });
  return {
    kind,
    size,
    length,
    inputIds,
    attentionMask,
    tokenTypeIds,
    positionIds,
    rows: BigInt64Array.from(rows),
    targets: BigInt64Array.from(targets),
    uncounted,
    tokens,
    labels: rows.length,
    examples: indices ?? examples.map((_, b) => b),
    items: examples,
    ...(examples[0]?.features ? { features: stackFeatures(examples) } : {}),
  };
}

/** The features of examples one below the other. */
export function stackFeatures(examples: readonly Example[]): Record<string, Features> {
  const rows = examples.map((example) => example.features!());
  return Object.fromEntries(
    Object.entries(rows[0]!).map(([name, { data, dims }]) => {
      const all = new Float32Array(rows.length * data.length);
      rows.forEach((row, b) => {
        all.set(row[name]!.data, b * data.length);
      });
      return [name, { data: all, dims: [rows.length, ...dims.slice(1)] }];
    }),
  );
}

/** Places of an example at which the model predicts something: rows of its logits. */
export function placesOf(kind: ExampleKind, length: number): number {
  if (kind === 'sequence') return 1;
  return kind === 'span' ? 2 : length;
}
