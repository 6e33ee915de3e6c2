import { type Row, rowError, stringField } from '../task.ts';
import { namedTask } from './named.ts';

const questions: Readonly<Record<string, string>> = {
  cause: 'What was the cause?',
  effect: 'What happened as a result?',
};

function question(row: Row): string {
  const value = stringField(row, 'question');
  if (Object.hasOwn(questions, value)) return questions[value] as string;
  throw rowError(row.source, 'field "question" must be cause or effect', {
    got: value,
    allowed: 'cause, effect',
    fix: 'write which of the two the row asks for',
  });
}

/** COPA (SuperGLUE): label 0 is choice 1, 1 is choice 2. Template: ALoRA paper, appendix C; wording of the questions ours. */
export const copa = namedTask({
  name: 'copa',
  fields: ['premise', 'choice1', 'choice2', 'question', 'label'],
  labels: ['1', '2'],
  labelField: 'label',
  texts: (row) => [
    `${stringField(row, 'premise')} ${question(row)}`,
    `${stringField(row, 'choice1')} ${stringField(row, 'choice2')}`,
  ],
  prompt: (row) =>
    [
      'Premise:',
      stringField(row, 'premise'),
      `Choice 1: ${stringField(row, 'choice1')}`,
      `Choice 2: ${stringField(row, 'choice2')}`,
      'Question:',
      question(row),
    ].join('\n'),
});
