/** What kind of thing went wrong; decides the exit code of the command line. */
export type ErrorKind = 'usage' | 'config' | 'data' | 'model' | 'diverged' | 'storage' | 'interrupted';

/** Exit codes of the command line, by kind of error. */
const exitCodes: Readonly<Record<ErrorKind, number>> = {
  usage: 2,
  config: 3,
  data: 4,
  model: 5,
  diverged: 6,
  storage: 7,
  interrupted: 130,
};

/** The parts of an error that a user can act on; each is one line on stderr. */
export interface ErrorDetails {
  /** `file:line:column`, a node, or a module. */
  readonly where?: string;
  /** The value that was refused. */
  readonly got?: unknown;
  /** What would have been accepted. */
  readonly allowed?: readonly string[] | string;
  /** The nearest accepted name. */
  readonly didYouMean?: string;
  /** One thing to do about it. */
  readonly fix?: string;
  /** Further problems found at the same time, one line each. */
  readonly also?: readonly string[];
  readonly cause?: unknown;
}

/**
 * The one error class of the project: a stable code, what happened, where, and the fix.
 * Everything that a user's input can cause is thrown as this; anything else is a bug.
 */
export class AloraError extends Error {
  override readonly name = 'AloraError';
  constructor(
    readonly kind: ErrorKind,
    /** Stable identifier in capitals, for example `CONFIG_UNKNOWN_KEY`. */
    readonly code: string,
    message: string,
    readonly details: ErrorDetails = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
  }

  get exitCode(): number {
    return exitCodes[this.kind];
  }
}

/** Edit distance with adjacent transpositions, for "did you mean". */
function distance(a: string, b: string): number {
  const rows = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      let best = Math.min(row[j - 1]! + 1, rows[i - 1]![j]! + 1, substitution);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, rows[i - 2]![j - 2]! + 1);
      row.push(best);
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}

/** The candidate nearest to `word`, if it is near enough to be a slip of the finger. */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  // A short word is not near to one that shares no letter with it.
  let least = Math.min(Math.max(2, Math.floor(word.length / 3)) + 1, Math.max(word.length, 1));
  for (const candidate of candidates) {
    const d = distance(word.toLowerCase(), candidate.toLowerCase());
    if (d < least) [best, least] = [candidate, d];
  }
  return best;
}
