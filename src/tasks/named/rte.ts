import { stringField } from '../task.ts';
import { namedTask } from './named.ts';

/** Recognising Textual Entailment (GLUE): label 0 entailment, 1 not entailment. Template: ALoRA paper, appendix C. */
export const rte = namedTask({
  name: 'rte',
  fields: ['sentence1', 'sentence2', 'label'],
  labels: ['entailment', 'not entailment'],
  labelField: 'label',
  texts: (row) => [stringField(row, 'sentence1'), stringField(row, 'sentence2')],
  prompt: (row) =>
    [
      `sentence 1: ${stringField(row, 'sentence1')}`,
      `sentence 2: ${stringField(row, 'sentence2')}`,
      'Are sentence 1 and sentence 2 have entailment relation or not?',
    ].join('\n'),
});
