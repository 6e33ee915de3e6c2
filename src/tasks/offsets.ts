import type { Tokenizer } from './tokenizer.ts';

/** Tokens of a text, and the characters that each stands for: UTF-16 places [start, end), blanks before it aside. */
export interface AlignedText {
  readonly ids: readonly number[];
  readonly spans: readonly (readonly [start: number, end: number])[];
}

type Word = { readonly ids: readonly number[]; readonly ends: readonly number[] };

/**
 * Tokenises texts word by word (a word: everything up to the next space, with the spaces before it), which gives the
 * tokens of the whole text for every tokenizer that splits at spaces, and finds each token's characters: token t of a
 * word ends where the first beginning of the word that has all tokens up to t ends. Normalisation (lower case, accents,
 * byte pairs) needs no rules of its own that way. Words are remembered, for a text has few that are new.
 */
export function textAligner({ encodePlain }: Pick<Tokenizer, 'encodePlain'>): (text: string) => AlignedText {
  const known = new Map<string, Word>();
  const wordOf = (text: string): Word => {
    let word = known.get(text);
    if (!word) {
      const ids = encodePlain(text);
      word = { ids, ends: endsOf(text, ids, encodePlain) };
      known.set(text, word);
    }
    return word;
  };
  return (text) => {
    const ids: number[] = [];
    const spans: [number, number][] = [];
    for (const { 0: chunk, index } of text.matchAll(/ *[^ ]+/g)) {
      const word = wordOf(chunk);
      let start = 0;
      word.ids.forEach((id, t) => {
        const end = word.ends[t]!;
        // Tokens that are parts of one character share it.
        if (t > 0 && end > word.ends[t - 1]!) start = word.ends[t - 1]!;
        const shown = chunk.slice(start, end);
        const blanks = shown.length - shown.trimStart().length;
        ids.push(id);
        spans.push([index + start + (blanks < shown.length ? blanks : 0), index + end]);
      });
    }
    return { ids, spans };
  };
}

/** Where each token of a word ends. */
function endsOf(text: string, ids: readonly number[], encodePlain: Tokenizer['encodePlain']): number[] {
  const ends: number[] = [];
  let end = text.length - text.trimStart().length;
  for (const character of text.slice(end)) {
    end += character.length;
    if (ends.length >= ids.length - 1) break;
    const begun = encodePlain(text.slice(0, end));
    for (let t = ends.length; t < ids.length - 1 && agree(begun, ids, t); t++) ends.push(end);
  }
  while (ends.length < ids.length) ends.push(text.length);
  return ends;
}

/** Whether the first tokens, number t included, are the same. */
function agree(a: readonly number[], b: readonly number[], t: number): boolean {
  for (let i = 0; i <= t; i++) if (a[i] !== b[i]) return false;
  return true;
}
