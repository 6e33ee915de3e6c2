/** What turns logits into choices, in the order and with the definitions of transformers. */

/** log softmax in float64; `logits` stay as they are. */
export function logSoftmax(logits: ArrayLike<number>): Float64Array {
  const highest = logits[argmax(logits)]!;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - highest);
  const shift = highest + Math.log(sum);
  return Float64Array.from(logits, (logit) => logit - shift);
}

/** In place: tokens that the row holds already lose, positive scores by division and negative ones by product. */
export function penalise(scores: Float32Array | Float64Array, row: Iterable<number>, penalty: number): void {
  if (penalty === 1) return;
  for (const token of new Set(row)) {
    const score = scores[token]!;
    scores[token] = score > 0 ? score / penalty : score * penalty;
  }
}

/** The first index of the largest score. */
export function argmax(scores: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i]! > scores[best]!) best = i;
  return best;
}

/** Indices of the `count` largest scores, largest first; of equals the smaller index first. */
export function largest(scores: ArrayLike<number>, count: number): number[] {
  const top: number[] = [];
  for (let i = 0; i < scores.length; i++) {
    const score = scores[i]!;
    if (top.length === count && score <= scores[top[count - 1]!]!) continue;
    let at = top.length;
    while (at > 0 && scores[top[at - 1]!]! < score) at--;
    top.splice(at, 0, i);
    if (top.length > count) top.pop();
  }
  return top;
}

export interface SamplingOptions {
  /** Divides the logits; below 1 sharper, above 1 flatter. */
  readonly temperature?: number;
  /** Only the k likeliest tokens; 0: all. Default 50, as in transformers. */
  readonly topK?: number;
  /** Of those only the likeliest whose probabilities reach this sum; 1: all. */
  readonly topP?: number;
}

/** Draws a token; `uniform` is in [0, 1). */
export function sampleToken(logits: Float32Array, options: SamplingOptions, uniform: number): number {
  const { temperature = 1, topK = 50, topP = 1 } = options;
  const order =
    topK > 0 && topK < logits.length
      ? largest(logits, topK)
      : Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b);
  const highest = logits[order[0]!]!;
  let weights = order.map((token) => Math.exp((logits[token]! - highest) / temperature));
  if (topP < 1) weights = weights.slice(0, nucleus(weights, topP));
  let left = uniform * weights.reduce((sum, weight) => sum + weight, 0);
  const chosen = weights.findIndex((weight) => {
    left -= weight;
    return left < 0;
  });
  return order[chosen < 0 ? weights.length - 1 : chosen]!;
}

/** How many of the weights, largest first, it takes to reach the share `topP` of their sum; one at least. */
function nucleus(weights: readonly number[], topP: number): number {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let sum = 0;
  const reached = weights.findIndex((weight) => {
    sum += weight / total;
    return sum >= topP;
  });
  return reached < 0 ? weights.length : reached + 1;
}
