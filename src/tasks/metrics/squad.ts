/** SQuAD's normal form of an answer: lower case, no punctuation, no articles, single blanks. */
export function normalizeAnswer(answer: string): string {
  return answer
    .toLowerCase()
    .replace(/[!-/:-@[-`{-~]/g, '')
    .replace(/\b(a|an|the)\b/g, ' ')
    .split(/\s+/)
    .filter((word) => word !== '')
    .join(' ');
}

/** 1 when the normal forms are equal, else 0. */
export const exactMatch = (prediction: string, reference: string): number =>
  Number(normalizeAnswer(prediction) === normalizeAnswer(reference));

/** Harmonic mean of precision and recall over the words of the normal forms, between 0 and 1. */
export function f1(prediction: string, reference: string): number {
  const words = (text: string) => normalizeAnswer(text).split(' ').filter(Boolean);
  const [predicted, expected] = [words(prediction), words(reference)];
  if (predicted.length === 0 || expected.length === 0) return Number(predicted.length === expected.length);
  const left = new Map<string, number>();
  for (const word of expected) left.set(word, (left.get(word) ?? 0) + 1);
  let common = 0;
  for (const word of predicted) {
    const count = left.get(word) ?? 0;
    if (count > 0) common++;
    left.set(word, count - 1);
  }
  if (common === 0) return 0;
  const [precision, recall] = [common / predicted.length, common / expected.length];
  return (2 * precision * recall) / (precision + recall);
}
