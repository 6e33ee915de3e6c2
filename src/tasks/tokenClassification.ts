import { AloraError } from '../errors.ts';
import { placesOf } from './collate.ts';
import { classNames, resolveLabel } from './labels.ts';
import { entityScores } from './metrics/entities.ts';
import type { Meter } from './metrics/meter.ts';
import {
  anyField,
  type Dropped,
  type Example,
  type Row,
  rowError,
  type Task,
  type TaskContext,
} from './task.ts';

/** A field that holds one value a word: a list, or a string with blanks between the values. */
export function listField(row: Row, name: string): readonly unknown[] {
  const value = anyField(row, name);
  if (typeof value === 'string') return value.split(/\s+/).filter((word) => word !== '');
  if (Array.isArray(value)) return value;
  throw rowError(row.source, `field "${name}" must be a list`, {
    got: typeof value,
    fix: `write "${name}" as a list with one value for each word`,
  });
}

function wordsOf(row: Row): string[] {
  return listField(row, 'tokens').map((word) => {
    if (typeof word === 'string') return word;
    throw rowError(row.source, 'field "tokens" holds something else than words', {
      got: word,
      fix: 'write each word in quotes',
    });
  });
}

/**
 * Words and their tags as tokens: the first token of a word is learnt, the rest of it is masked, as in transformers'
 * example. Every word stands after a space for the tokenizer, the first one too. What does not fit in `maxLength` is cut
 * off at the end.
 */
function encodeTagged(
  row: Row,
  names: readonly string[],
  { tokenizer, maxLength }: Pick<TaskContext, 'tokenizer' | 'maxLength'>,
): Example | Dropped {
  const words = wordsOf(row);
  const tags = listField(row, 'tags');
  if (words.length !== tags.length)
    throw rowError(row.source, 'the row has another number of tags than of words', {
      got: `${words.length} tokens, ${tags.length} tags`,
      fix: 'give each word one tag',
    });
  const text: number[] = [];
  const learnt: number[] = [];
  words.forEach((word, i) => {
    const ids = tokenizer.encodePlain(` ${word}`);
    const label = resolveLabel(tags[i], names, row, 'tags');
    text.push(...ids);
    learnt.push(...ids.map((_, t) => (t === 0 ? label : -1)));
  });
  if (text.length === 0) return { dropped: 'no words' };
  const room = maxLength - tokenizer.assemble([]).ids.length;
  if (room < 1) return { dropped: 'no word within maxLength' };
  const { ids, typeIds, at } = tokenizer.assemble(text.slice(0, room));
  const targets = ids.map((_, t) => (t < at || t >= at + room ? -1 : (learnt[t - at] ?? -1)));
  return {
    kind: 'tag',
    ids,
    typeIds,
    targets,
    source: row.source,
    prompt: words.join(' '),
    truncated: text.length > room,
  };
}

/** Accuracy over words; where the tags are IOB or like it, precision, recall and F1 over whole entities too. */
function tagMeter(names: readonly string[]): Meter {
  const entities = names.some((name) => /^[BI]-/.test(name)) ? entityScores() : undefined;
  let [words, right] = [0, 0];
  return {
    add(batch, { predicted }) {
      const places = placesOf(batch.kind, batch.length);
      for (let from = 0, to = 0; from < batch.labels; from = to) {
        const example = Math.floor(Number(batch.rows[from]) / places);
        while (to < batch.labels && Math.floor(Number(batch.rows[to]) / places) === example) to++;
        const range = Array.from({ length: to - from }, (_, i) => from + i);
        const given = range.map((i) => Number(predicted[i]));
        const wanted = range.map((i) => Number(batch.targets[i]));
        words += range.length;
        right += given.filter((label, i) => label === wanted[i]).length;
        entities?.add(
          given.map((label) => names[label]!),
          wanted.map((label) => names[label]!),
        );
      }
    },
    result: () => ({ accuracy: right / words, ...entities?.result() }),
  };
}

/** Task `token-classification`: fields `tokens`, the words, and `tags`, a class for each (an integer, or a name). */
export const tokenClassification: Task = {
  name: 'token-classification',
  fields: ['tokens', 'tags'],
  head: 'tag',
  usesLabels: true,
  prepare(context) {
    const { head } = context;
    if (head?.kind !== 'tag')
      throw new AloraError('config', 'TASK_MODEL', 'The task needs a class for every token', {
        where: 'data.task',
        got: 'token-classification, on another kind of model',
        fix: 'Use an encoder such as BERT, with a token classification head or without one (last_hidden_state).',
      });
    const names = classNames(head, context.labels);
    return {
      kind: 'tag',
      metrics: [],
      labels: names,
      meter: () => tagMeter(names),
      encode: (row) => encodeTagged(row, names, context),
    };
  },
};
