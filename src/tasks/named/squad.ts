import { answerTexts, prepareSpan, readAnswers } from '../span.ts';
import { type Row, stringField, type Task } from '../task.ts';
import { namedTask } from './named.ts';

const answer = (row: Row) => {
  const references = answerTexts(readAnswers(row));
  return { completion: references[0] as string, references };
};

/** A decoder writes the answer; a model with a span head predicts where it begins and ends. */
function questionOnContext(name: string): Task {
  const written = namedTask({
    name,
    fields: ['context', 'question', 'answers'],
    textMetrics: ['f1', 'em'],
    prompt: (row) => `Context:\n${stringField(row, 'context')}\nQuestion:\n${stringField(row, 'question')}`,
    answer,
  });
  return {
    ...written,
    head: 'span',
    prepare: (context) => (context.head?.kind === 'span' ? prepareSpan(context) : written.prepare(context)),
  };
}

/** SQuAD 1.1: context, question, answers; the first answer is learnt. Template: ALoRA paper, appendix C. */
export const squad = questionOnContext('squad');

/** Questions on a context in SQuAD's fields. */
export const qaSpan = questionOnContext('qa-span');

/** ReCoRD (SuperGLUE): passage, query with @placeholder, answers. Template: ALoRA paper, appendix C. */
export const record = namedTask({
  name: 'record',
  fields: ['passage', 'query', 'answers'],
  textMetrics: ['f1', 'em'],
  prompt: (row) => `Context:\n${stringField(row, 'passage')}\nQuestion:\n${stringField(row, 'query')}`,
  answer,
});
