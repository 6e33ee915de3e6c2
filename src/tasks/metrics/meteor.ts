import { porterStem } from './porter.ts';

/** Words, and punctuation marks one by one. */
const meteorTokens = (text: string): string[] => text.match(/[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [];

type Placed = readonly [position: number, word: string];

/** Matches equal words from the end, each with the last free one of the reference; the rest is left over. */
function match(predicted: readonly Placed[], expected: readonly Placed[]) {
  const free = new Map<string, number[]>();
  for (const [position, word] of expected) free.set(word, [...(free.get(word) ?? []), position]);
  const pairs: [number, number][] = [];
  for (const [position, word] of [...predicted].reverse()) {
    const partner = free.get(word)?.pop();
    if (partner !== undefined) pairs.push([position, partner]);
  }
  const [left, right] = [new Set(pairs.map(([p]) => p)), new Set(pairs.map(([, e]) => e))];
  return {
    pairs,
    predicted: predicted.filter(([position]) => !left.has(position)),
    expected: expected.filter(([position]) => !right.has(position)),
  };
}

/** METEOR of one reference on tokens: Lavie and Agarwal 2007 with alpha 0.9, beta 3, gamma 0.5. */
function meteorOfTokens(prediction: readonly string[], reference: readonly string[]): number {
  const placed = (tokens: readonly string[]) => tokens.map((token, i): Placed => [i, token.toLowerCase()]);
  const exact = match(placed(prediction), placed(reference));
  const stems = (words: readonly Placed[]) => words.map(([i, word]): Placed => [i, porterStem(word)]);
  const stemmed = match(stems(exact.predicted), stems(exact.expected));
  const pairs = [...exact.pairs, ...stemmed.pairs].sort((a, b) => a[0] - b[0]);
  if (pairs.length === 0) return 0;
  const precision = pairs.length / prediction.length;
  const recall = pairs.length / reference.length;
  const mean = (precision * recall) / (0.9 * precision + 0.1 * recall);
  const breaks = pairs.filter(([p, e], i) => {
    const [lastP, lastE] = pairs[i - 1] ?? [Number.NaN, Number.NaN];
    return p !== lastP + 1 || e !== lastE + 1;
  });
  return (1 - 0.5 * (breaks.length / pairs.length) ** 3) * mean;
}

/**
 * METEOR with exact and stem matches, 0 to 1, the best over the references. Without WordNet's synonyms it lies below
 * the usual figure: say "METEOR (exact + stem)".
 */
export function meteor(prediction: string, references: readonly string[]): number {
  const tokens = meteorTokens(prediction);
  return Math.max(0, ...references.map((reference) => meteorOfTokens(tokens, meteorTokens(reference))));
}
