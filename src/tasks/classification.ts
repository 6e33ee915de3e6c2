import { AloraError } from '../errors.ts';
import { classNames, encodeLabelWord, resolveLabel } from './labels.ts';
import {
  anyField,
  type Dropped,
  type Example,
  type ModelHead,
  type PreparedTask,
  type Row,
  stringField,
  type Task,
  type TaskContext,
} from './task.ts';

/** One text, or two, and its class. */
export interface ClassifiedText {
  readonly text: string;
  readonly textPair?: string;
  readonly label: number;
}

/** For a model with a head: the texts with their special tokens, cut to `maxLength`, and one class to predict. */
export function encodeClassified(
  { text, textPair, label }: ClassifiedText,
  { tokenizer, maxLength, source }: Pick<TaskContext, 'tokenizer' | 'maxLength'> & { source: Row['source'] },
): Example | Dropped {
  if (text.trim() === '' && (textPair ?? '').trim() === '') return { dropped: 'empty text' };
  const { ids, typeIds } = tokenizer.encode(text, textPair, maxLength);
  if (ids.length === 0) return { dropped: 'empty text' };
  return {
    kind: 'sequence',
    ids,
    typeIds,
    targets: [label],
    source,
    prompt: textPair === undefined ? text : `${text}\n${textPair}`,
    truncated: ids.length === maxLength && tokenizer.encode(text, textPair).ids.length > maxLength,
  };
}

const optionalText = (row: Row) =>
  row.fields.text_pair === undefined || row.fields.text_pair === null
    ? undefined
    : stringField(row, 'text_pair');

function withHead(head: ModelHead, context: TaskContext): PreparedTask {
  const names = classNames(head, context.labels);
  return {
    kind: 'sequence',
    metrics: ['accuracy'],
    encode: (row) =>
      encodeClassified(
        {
          text: stringField(row, 'text'),
          textPair: optionalText(row),
          label: resolveLabel(anyField(row, 'label'), names, row, 'label'),
        },
        { ...context, source: row.source },
      ),
  };
}

/** The label words of a decoder, checked. */
function labelWords(labels: readonly string[] | undefined): readonly string[] {
  const fix = 'name the word of each class in order, for example data.labels: [negative, positive]';
  if (labels === undefined)
    throw new AloraError(
      'config',
      'LABELS_MISSING',
      'classification on a model without a classification head needs data.labels',
      {
        where: 'data.labels',
        fix,
      },
    );
  const words = labels.map((label) => label.trim());
  if (words.length < 2 || words.includes('') || new Set(words).size < words.length)
    throw new AloraError('config', 'LABELS_BAD', 'data.labels must be at least two different words', {
      where: 'data.labels',
      got: labels.join(', '),
      fix,
    });
  return words;
}

/**
 * Task `classification`: fields `text`, optionally `text_pair`, and `label` (an integer, or a name).
 *
 * A model with a head predicts one class per row. A decoder learns to write the label's word (`data.labels`) and the end
 * token after the text and a line end; a row counts as right when every token of the word is the most likely one, which
 * is when greedy decoding begins with this word.
 */
export const classification: Task = {
  name: 'classification',
  fields: ['text', 'text_pair', 'label'],
  usesLabels: true,
  prepare(context) {
    if (context.head) return withHead(context.head, context);
    const words = labelWords(context.labels);
    return {
      kind: 'token',
      metrics: ['accuracy'],
      encode(row) {
        const pair = optionalText(row);
        const text = stringField(row, 'text');
        const label = resolveLabel(anyField(row, 'label'), words, row, 'label');
        const prompt = pair === undefined ? `${text}\n` : `${text}\n${pair}\n`;
        return encodeLabelWord(prompt, { words, label }, { ...context, source: row.source });
      },
    };
  },
};
