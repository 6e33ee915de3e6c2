import { dnas } from './dnas.ts';
import { exact } from './exact.ts';
import { screened } from './screened.ts';
import { sensitivity } from './sensitivity.ts';
import { taylor } from './taylor.ts';

/** Every scorer by the word in the run file. */
export const scorers = { exact, screened, taylor, sensitivity, dnas };

/** The scorers of this package. */
export type ScorerName = keyof typeof scorers;
export const scorerNames = Object.keys(scorers) as [ScorerName, ...ScorerName[]];
