/**
 * Words that have to be replaced, left out or put in to make the references of the predictions, by the number of words in
 * the references; of all rows together, as jiwer counts. Words are what blanks separate, as they are written.
 */
export function wordErrorRate(predictions: readonly string[], references: readonly string[]): number {
  let errors = 0;
  let words = 0;
  predictions.forEach((prediction, i) => {
    const reference = wordsOf(references[i] ?? '');
    errors += distance(wordsOf(prediction), reference);
    words += reference.length;
  });
  return errors / words;
}

const wordsOf = (text: string): string[] => text.split(/\s+/).filter((word) => word !== '');

/** Levenshtein distance. */
function distance(a: readonly string[], b: readonly string[]): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  a.forEach((word, i) => {
    const next = [i + 1];
    b.forEach((other, j) => {
      next.push(Math.min(row[j]! + Number(word !== other), row[j + 1]! + 1, next[j]! + 1));
    });
    row = next;
  });
  return row[b.length]!;
}
