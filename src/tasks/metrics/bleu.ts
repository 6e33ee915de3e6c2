const maxOrder = 4;

/** The tokenizer of mteval-v13a, as sacrebleu's default has it. */
export function tokenize13a(line: string): string[] {
  return ` ${line
    .replaceAll('<skipped>', '')
    .replaceAll('-\n', '')
    .replaceAll('\n', ' ')
    .replaceAll('&quot;', '"')
    .replaceAll('&amp;', '&')
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')} `
    .replace(/([{-~[-` -&(-+:-@/])/g, ' $1 ')
    .replace(/([^0-9])([.,])/g, '$1 $2 ')
    .replace(/([.,])([^0-9])/g, ' $1 $2')
    .replace(/([0-9])(-)/g, '$1 $2 ')
    .split(/\s+/)
    .filter((token) => token !== '');
}

function ngrams(tokens: readonly string[], order: number): Map<string, number> {
  const counts = new Map<string, number>();
  for (let i = 0; i + order <= tokens.length; i++) {
    const gram = tokens.slice(i, i + order).join(' ');
    counts.set(gram, (counts.get(gram) ?? 0) + 1);
  }
  return counts;
}

/**
 * Corpus BLEU, 0 to 100: Papineni et al. 2002, with several references per prediction, and sacrebleu's defaults
 * (13a tokens, exponential smoothing of orders without a match, closest reference length).
 */
export function bleu(predictions: readonly string[], references: readonly (readonly string[])[]): number {
  const correct = new Array<number>(maxOrder).fill(0);
  const total = new Array<number>(maxOrder).fill(0);
  let predictedLength = 0;
  let referenceLength = 0;
  predictions.forEach((prediction, i) => {
    const tokens = tokenize13a(prediction.trimEnd());
    const targets = (references[i] ?? []).map((reference) => tokenize13a(reference.trimEnd()));
    predictedLength += tokens.length;
    const distance = (length: number) => Math.abs(length - tokens.length);
    referenceLength += targets
      .map((target) => target.length)
      .reduce((a, b) => (distance(b) < distance(a) || (distance(b) === distance(a) && b < a) ? b : a));
    for (let order = 1; order <= maxOrder; order++) {
      const allowed = new Map<string, number>();
      for (const target of targets)
        for (const [gram, count] of ngrams(target, order))
          allowed.set(gram, Math.max(allowed.get(gram) ?? 0, count));
      for (const [gram, count] of ngrams(tokens, order)) {
        total[order - 1] = (total[order - 1] as number) + count;
        correct[order - 1] = (correct[order - 1] as number) + Math.min(count, allowed.get(gram) ?? 0);
      }
    }
  });
  if (correct.every((count) => count === 0) || total.includes(0)) return 0;
  let smoothing = 1;
  const logs = correct.map((count, n) => {
    if (count === 0) smoothing *= 2;
    return Math.log((count === 0 ? 1 / smoothing : count) / (total[n] as number));
  });
  const brevity = predictedLength < referenceLength ? Math.exp(1 - referenceLength / predictedLength) : 1;
  return 100 * brevity * Math.exp(logs.reduce((sum, log) => sum + log, 0) / maxOrder);
}
