/** An entity of a tagged sentence: words [start, end]. */
export interface Entity {
  readonly type: string;
  readonly start: number;
  readonly end: number;
}

const outside = (prefix: string) => prefix === 'O' || prefix === '.';

/**
 * Entities of a sequence of tags as seqeval and conlleval find them by default: `B-` and `S-` begin one, `E-` and `S-`
 * end one, and so does a change of type; an `I-` after `O` begins one too.
 */
export function entitiesOf(tags: readonly string[]): Entity[] {
  const entities: Entity[] = [];
  let [before, typeBefore, start] = ['O', 'O', 0];
  [...tags, 'O'].forEach((tag, i) => {
    const prefix = tag.charAt(0);
    const dash = tag.indexOf('-');
    const type = dash < 0 ? tag : tag.slice(dash + 1);
    const changed = type !== typeBefore;
    const ends =
      /[ES]/.test(before) || (/[BI]/.test(before) && /[BSO]/.test(prefix)) || (!outside(before) && changed);
    if (ends) entities.push({ type: typeBefore, start, end: i - 1 });
    const starts =
      /[BS]/.test(prefix) || (/[ESO]/.test(before) && /[EI]/.test(prefix)) || (!outside(prefix) && changed);
    if (starts) start = i;
    [before, typeBefore] = [prefix, type];
  });
  return entities;
}

/** Precision, recall and F1 over the entities of all sentences added; an entity counts by type and both ends. */
export function entityScores() {
  let [found, real, right] = [0, 0, 0];
  return {
    add(predicted: readonly string[], expected: readonly string[]): void {
      const key = ({ type, start, end }: Entity) => `${start} ${end} ${type}`;
      const wanted = new Set(entitiesOf(expected).map(key));
      const given = entitiesOf(predicted).map(key);
      found += given.length;
      real += wanted.size;
      right += given.filter((entity) => wanted.has(entity)).length;
    },
    result() {
      const share = (part: number, whole: number) => (whole === 0 ? 0 : part / whole);
      return {
        precision: share(right, found),
        recall: share(right, real),
        f1: share(2 * right, found + real),
      };
    },
  };
}
