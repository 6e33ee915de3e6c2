import type { Decoder } from './decoder.ts';
import { largest, logSoftmax, penalise } from './tokenScores.ts';

export interface BeamOptions {
  readonly beams: number;
  /** Scores of ended sequences are divided by length ** lengthPenalty. Above 0 favours long ones. Default 1. */
  readonly lengthPenalty?: number;
  /** true: end as soon as `beams` sequences have ended; false: when none that runs could still win. */
  readonly earlyStopping?: boolean;
}

export interface BeamRun {
  readonly maxNewTokens: number;
  /** Tokens that end a sequence. */
  readonly ends: ReadonlySet<number>;
  readonly repetitionPenalty: number;
  /** Asked before each step: whether to stop with what there is. */
  readonly stopped: () => boolean;
}

/** A sequence of new tokens and its score: the sum of log probabilities while it runs. */
interface Hypothesis {
  readonly tokens: readonly number[];
  readonly score: number;
}

interface Candidate extends Hypothesis {
  readonly parent: number;
  readonly ends: boolean;
}

/**
 * Beam search as transformers does it: of all continuations the best (1 + number of end tokens) * beams are
 * kept; those among the first `beams` that end are finished with score / length ** lengthPenalty, and the
 * best `beams` that do not end run on. Returns the best sequence, its end token included.
 */
export async function beamSearch(
  decoder: Decoder,
  prompt: readonly number[],
  { beams, lengthPenalty = 1, earlyStopping = false }: BeamOptions,
  run: BeamRun,
): Promise<Hypothesis> {
  const before = decoder.begins ?? prompt;
  const kept = Math.max(2, 1 + run.ends.size) * beams;
  let running: readonly Hypothesis[] = [{ tokens: [], score: 0 }];
  let finished: Hypothesis[] = [];
  let logits = await decoder.start([prompt]);
  for (let length = 1; ; length++) {
    const rows = running.map(({ tokens, score }, row) => ({
      scores: scored(logits[row]!, [...before, ...tokens], run.repetitionPenalty),
      score,
    }));
    const candidates = best(rows, kept).map(({ parent, token, score }): Candidate => {
      const tokens = [...running[parent]!.tokens, token];
      return { parent, tokens, score, ends: run.ends.has(token) || length >= run.maxNewTokens };
    });
    const ended = candidates.slice(0, beams).filter((candidate) => candidate.ends);
    finished = [
      ...finished,
      ...ended.map(({ tokens, score }) => ({ tokens, score: score / length ** lengthPenalty })),
    ]
      .sort((a, b) => b.score - a.score)
      .slice(0, beams);
    const next = candidates.filter((candidate) => !candidate.ends).slice(0, beams);
    if (next.length === 0) break;
    const full = finished.length === beams;
    // What the best running sequence would score if it ended now; transformers' heuristic.
    const hope = next[0]!.score / length ** lengthPenalty;
    if (full && (earlyStopping || hope <= finished[beams - 1]!.score)) break;
    running = next;
    if (run.stopped()) break;
    logits = await decoder.next(
      next.map(({ parent }) => parent),
      next.map(({ tokens }) => tokens[tokens.length - 1]!),
    );
  }
  return finished[0] ?? running[0]!;
}

function scored(logits: Float32Array, row: readonly number[], penalty: number): Float64Array {
  const scores = logSoftmax(logits);
  penalise(scores, row, penalty);
  return scores;
}

/** The `count` best continuations of all rows, best first; of equals the earlier row and the smaller token. */
function best(
  rows: readonly { readonly scores: Float64Array; readonly score: number }[],
  count: number,
): { parent: number; token: number; score: number }[] {
  return rows
    .flatMap(({ scores, score }, parent) =>
      largest(scores, count).map((token) => ({ parent, token, score: score + scores[token]! })),
    )
    .sort((a, b) => b.score - a.score)
    .slice(0, count);
}
