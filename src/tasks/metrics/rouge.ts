/** Lower-case runs of letters and digits, the tokens of rouge_score without a stemmer. */
const words = (text: string): string[] => text.toLowerCase().match(/[a-z0-9]+/g) ?? [];

function longestCommonSubsequence(a: readonly string[], b: readonly string[]): number {
  let previous = new Uint32Array(b.length + 1);
  for (const word of a) {
    const row = new Uint32Array(b.length + 1);
    for (let j = 1; j <= b.length; j++)
      row[j] =
        word === b[j - 1]
          ? (previous[j - 1] as number) + 1
          : Math.max(previous[j] as number, row[j - 1] as number);
    previous = row;
  }
  return previous[b.length] ?? 0;
}

/** ROUGE-L, F measure, 0 to 1 (Lin 2004), the best over the references. An empty text scores 0. */
export function rougeL(prediction: string, references: readonly string[]): number {
  const predicted = words(prediction);
  const scores = references.map((reference) => {
    const expected = words(reference);
    const common = longestCommonSubsequence(predicted, expected);
    return common === 0 ? 0 : (2 * common) / (predicted.length + expected.length);
  });
  return Math.max(0, ...scores);
}
