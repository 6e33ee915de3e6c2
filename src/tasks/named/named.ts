import { AloraError } from '../../errors.ts';
import { encodeClassified } from '../classification.ts';
import { encodeLabelWord, resolveLabel } from '../labels.ts';
import { encodePrompt } from '../prompt.ts';
import { anyField, type MetricName, type Row, type Task } from '../task.ts';

/** A data set with a template of its own. The prompt ends without a line end; one stands before the answer. */
export type NamedTask = {
  readonly name: string;
  readonly fields: readonly string[];
  readonly prompt: (row: Row) => string;
} & (
  | {
      /** Words of the classes in the order of the data set's integers. */
      readonly labels: readonly string[];
      /** The field that holds the class. */
      readonly labelField: string;
      /** The text, or two, that a model with a classification head reads. */
      readonly texts: (row: Row) => readonly [string, string?];
    }
  | {
      /** The answer, and all right ones where several are. */
      readonly answer: (row: Row) => { completion: string; references?: readonly string[] };
      readonly textMetrics: readonly MetricName[];
    }
);

/** A named task: prompt and completion for a decoder; for a model with a head, texts and class. */
export function namedTask(spec: NamedTask): Task {
  const { name, fields } = spec;
  return {
    name,
    fields,
    ...('labels' in spec ? { labels: spec.labels } : {}),
    prepare(context) {
      const { head } = context;
      if (!('labels' in spec)) {
        if (head)
          throw new AloraError(
            'config',
            'TASK_NEEDS_DECODER',
            `task ${name} writes text, but the model has a classification head`,
            {
              where: 'data.task',
              got: name,
              fix: 'use a decoder model, or a classification task',
            },
          );
        return {
          kind: 'token',
          metrics: ['perplexity', 'tokenAccuracy'],
          textMetrics: spec.textMetrics,
          encode: (row) =>
            encodePrompt(
              { prompt: `${spec.prompt(row)}\n`, ...spec.answer(row) },
              { ...context, source: row.source },
            ),
        };
      }
      const { labels, labelField } = spec;
      const classOf = (row: Row) => resolveLabel(anyField(row, labelField), labels, row, labelField);
      if (!head)
        return {
          kind: 'token',
          metrics: ['accuracy'],
          encode: (row) =>
            encodeLabelWord(
              `${spec.prompt(row)}\n`,
              { words: labels, label: classOf(row) },
              { ...context, source: row.source },
            ),
        };
      if (head.size < labels.length)
        throw new AloraError(
          'config',
          'LABELS_EXCEED_HEAD',
          `task ${name} has ${labels.length} classes, the model's head ${head.size}`,
          {
            where: 'data.task',
            got: labels.join(', '),
            fix: 'use a model whose head has as many classes, or one without a head',
          },
        );
      return {
        kind: 'sequence',
        metrics: ['accuracy'],
        encode(row) {
          const [text, textPair] = spec.texts(row);
          return encodeClassified(
            { text, textPair, label: classOf(row) },
            { ...context, source: row.source },
          );
        },
      };
    },
  };
}
