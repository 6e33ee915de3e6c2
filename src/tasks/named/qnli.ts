import { stringField } from '../task.ts';
import { namedTask } from './named.ts';

/** Question NLI (GLUE): label 0 entailment, 1 not entailment. Template: ALoRA paper, appendix C, with the question first. */
export const qnli = namedTask({
  name: 'qnli',
  fields: ['question', 'sentence', 'label'],
  labels: ['entailment', 'not entailment'],
  labelField: 'label',
  texts: (row) => [stringField(row, 'question'), stringField(row, 'sentence')],
  prompt: (row) =>
    [
      `sentence 1: ${stringField(row, 'question')}`,
      `sentence 2: ${stringField(row, 'sentence')}`,
      'Are sentence 1 and sentence 2 have entailment relation or not?',
    ].join('\n'),
});
