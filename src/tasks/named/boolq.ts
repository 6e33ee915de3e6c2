import { stringField } from '../task.ts';
import { namedTask } from './named.ts';

/** BoolQ (SuperGLUE): label 0 or false is no, 1 or true is yes. Template: ALoRA paper, appendix C. */
export const boolq = namedTask({
  name: 'boolq',
  fields: ['passage', 'question', 'label'],
  labels: ['no', 'yes'],
  labelField: 'label',
  texts: (row) => [stringField(row, 'question'), stringField(row, 'passage')],
  prompt: (row) =>
    `Reference document:\n${stringField(row, 'passage')}\nQuestion:\n${stringField(row, 'question')}`,
});
