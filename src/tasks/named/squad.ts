import { anyField, type Row, rowError, stringField } from '../task.ts';
import { namedTask } from './named.ts';

/** `{"text": ["...", ...]}` as in the data set, or a list of strings. */
export function readAnswers(row: Row): string[] {
  const value = anyField(row, 'answers');
  const list = Array.isArray(value) ? value : (value as Record<string, unknown>).text;
  const answers = Array.isArray(list)
    ? list.map((answer: unknown) =>
        typeof answer === 'string' ? answer : (answer as { text?: unknown } | null)?.text,
      )
    : [];
  if (answers.length > 0 && answers.every((answer) => typeof answer === 'string'))
    return [...new Set(answers)];
  throw rowError(row.source, 'field "answers" holds no answer', {
    got: JSON.stringify(value)?.slice(0, 80),
    allowed: '{"text": ["...", ...]} or ["...", ...]',
    fix: 'give each question at least one answer; questions without one are not part of SQuAD 1.1',
  });
}

const answer = (row: Row) => {
  const references = readAnswers(row);
  return { completion: references[0] as string, references };
};

const questionOnContext = (name: string) =>
  namedTask({
    name,
    fields: ['context', 'question', 'answers'],
    textMetrics: ['f1', 'em'],
    prompt: (row) => `Context:\n${stringField(row, 'context')}\nQuestion:\n${stringField(row, 'question')}`,
    answer,
  });

/** SQuAD 1.1: context, question, answers; the first answer is learnt. Template: ALoRA paper, appendix C. */
export const squad = questionOnContext('squad');

/** Questions on a context in SQuAD's fields: a decoder learns to write the first answer. */
export const qaSpan = questionOnContext('qa-span');

/** ReCoRD (SuperGLUE): passage, query with @placeholder, answers. Template: ALoRA paper, appendix C. */
export const record = namedTask({
  name: 'record',
  fields: ['passage', 'query', 'answers'],
  textMetrics: ['f1', 'em'],
  prompt: (row) => `Context:\n${stringField(row, 'passage')}\nQuestion:\n${stringField(row, 'query')}`,
  answer,
});
