import type { Example } from './task.ts';

/** Positions from which on attention costs as much as everything else that a layer does for a token, roughly. */
const attentionLength = 3072;

export interface PartOptions {
  /** Rows of a part, at most. */
  readonly most: number;
  /** What a run costs beside its tokens, in tokens. */
  readonly tokensOfRun: number;
}

/**
 * The cost of a run for rows of a kind. The softmax over the positions of a span counts padding, as in transformers:
 * its rows are not independent, and batches stay whole.
 */
export function runCostOf(examples: readonly Pick<Example, 'kind'>[], tokensOfRun: number): number {
  return examples[0]?.kind === 'span' ? 1e9 : tokensOfRun;
}

/** What a run of rows padded to one length costs, in tokens. */
export function costOfPart(rows: number, length: number, tokensOfRun: number): number {
  return tokensOfRun + rows * length * (1 + length / attentionLength);
}

/**
 * Deals rows of the given lengths out to parts that are padded and run one by one, at the least cost: another run, or
 * more padding. Rows are independent of each other, so that sums over all parts (of losses, of gradients) do not
 * depend on how they are dealt out, but for rounding. Depends on its arguments alone.
 *
 * @returns Indices of the rows of each part, ascending; the part with the longest rows first.
 */
export function lengthParts(lengths: readonly number[], { most, tokensOfRun }: PartOptions): number[][] {
  const order = lengths.map((_, i) => i).sort((a, b) => lengths[a]! - lengths[b]! || a - b);
  // Of the i shortest rows: the least cost, and where the last part of that begins.
  const costs = [0];
  const starts = [0];
  for (let end = 1; end <= order.length; end++) {
    const length = lengths[order[end - 1]!]!;
    costs.push(Number.POSITIVE_INFINITY);
    for (let start = end - 1; start >= Math.max(0, end - most); start--) {
      const cost = costs[start]! + costOfPart(end - start, length, tokensOfRun);
      // Of equal ones the larger part: full batches stay full.
      if (cost <= costs[end]!) [costs[end], starts[end]] = [cost, start];
    }
  }
  const parts: number[][] = [];
  for (let end = order.length; end > 0; end = starts[end]!)
    parts.push(order.slice(starts[end]!, end).sort((a, b) => a - b));
  return parts;
}
