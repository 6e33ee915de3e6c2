import { AloraError } from '../errors.ts';
import type { Patch } from './mergePlan.ts';
import type { AdaptedFile } from './quantisedFile.ts';

/** What becomes of the files of a model. */
export interface FilePlan {
  /** Files of float weights; without a patch, those that hold nothing of the adapter. */
  readonly patches: readonly { readonly file: string; readonly patches: readonly Patch[] }[];
  readonly branched: readonly AdaptedFile[];
  readonly requantised: readonly AdaptedFile[];
  readonly leftOut: readonly string[];
  readonly warnings: readonly string[];
}

/** Ways to put the adapter into a file; undefined from the first two where no weight of the adapter is quantised there. */
export interface FileMakers {
  readonly branch: (file: string) => AdaptedFile | undefined;
  readonly requantise: ((file: string) => AdaptedFile | undefined) | undefined;
  readonly patch: (file: string) => readonly Patch[];
}

/**
 * Finds the way for each file. One whose weights cannot be quantised again keeps them, with the adapter beside, and one
 * that holds a part of the modules only is left out, both with a warning; where no other file gets the adapter as asked
 * for, the first refusal is thrown. Errors: MODEL_REQUANTISE, MODEL_MERGE_NO_PLACE.
 */
export function planFiles(files: readonly string[], make: FileMakers): FilePlan {
  const patches: { readonly file: string; readonly patches: readonly Patch[] }[] = [];
  const branched: AdaptedFile[] = [];
  const requantised: AdaptedFile[] = [];
  const leftOut: string[] = [];
  const warnings: string[] = [];
  let refusal: AloraError | undefined;
  let asAsked = false;

  const place = (file: string): void => {
    const again = make.requantise && attempt('MODEL_REQUANTISE', () => make.requantise!(file));
    if (again?.made) requantised.push(again.made);
    else {
      const beside = again && !again.refusal ? undefined : make.branch(file);
      if (beside) branched.push(beside);
      else patches.push({ file, patches: make.patch(file) });
    }
    if (!again?.refusal) {
      asAsked ||= patches.at(-1)?.file !== file || patches.at(-1)!.patches.length > 0;
      return;
    }
    refusal ??= again.refusal;
    const why = String(again.refusal.details.got);
    warnings.push(`${file} cannot be quantised again (${why}): the adapter stands beside its weights`);
  };
  for (const file of files) {
    const partial = attempt('MODEL_MERGE_NO_PLACE', () => place(file)).refusal;
    if (!partial) continue;
    refusal ??= partial;
    leftOut.push(file);
    warnings.push(
      `${file} is left out, as it holds only a part of the adapted modules: ${partial.details.got}`,
    );
  }
  if (refusal && !asAsked) throw refusal;
  return { patches, branched, requantised, leftOut, warnings };
}

function attempt<T>(code: string, work: () => T): { readonly made?: T; readonly refusal?: AloraError } {
  try {
    return { made: work() };
  } catch (error) {
    if (error instanceof AloraError && error.code === code) return { refusal: error };
    throw error;
  }
}
