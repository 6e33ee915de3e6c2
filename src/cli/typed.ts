import type { Locate } from '../config/problems.ts';
import { AloraError } from '../errors.ts';

/** What the user typed for a key of the configuration: a flag, or a place in a file; undefined for what is no key. */
type Typed = (key: string) => string | undefined;

/** Passes a refusal on with the name of what was typed in the place of the key that it names. */
export type Named = <T>(work: Promise<T>) => Promise<T>;

const named =
  (typed: Typed, mend = (fix: string) => fix): Named =>
  async (work) => {
    try {
      return await work;
    } catch (thrown) {
      if (!(thrown instanceof AloraError)) throw thrown;
      const { kind, code, message, details } = thrown;
      const where = details.where === undefined ? undefined : (typed(details.where) ?? details.where);
      const error = new AloraError(kind, code, message, {
        ...details,
        where,
        fix: details.fix && mend(details.fix),
      });
      error.stack = thrown.stack;
      throw error;
    }
  };

/** For a verb that takes flags in the place of a run file: `--model` for model.path. */
export const namedByFlags = (flags: Readonly<Record<string, string>>): Named =>
  named(
    (key) => flags[key],
    (fix) => Object.entries(flags).reduce((text, [key, flag]) => text.replaceAll(key, flag), fix),
  );

/** For a verb that takes a run file: the `--set` that gave the key, or its place in the file. */
export const namedByFile = (locate: Locate, isKey: (word: string) => boolean): Named =>
  named((where) => {
    const [key, ...others] = where.split(', ');
    if (![key!, ...others].every(isKey)) return undefined;
    const place = locate(key!.split('.'), false);
    return place.includes(where) ? place : `${place} (${where})`;
  });
