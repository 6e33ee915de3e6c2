import { stringField } from '../task.ts';
import { namedTask } from './named.ts';

/** Stanford Sentiment Treebank: label 0 negative, 1 positive. Template: ALoRA paper, appendix C. */
export const sst2 = namedTask({
  name: 'sst2',
  fields: ['sentence', 'label'],
  labels: ['negative', 'positive'],
  labelField: 'label',
  texts: (row) => [stringField(row, 'sentence')],
  prompt: (row) => `${stringField(row, 'sentence')}\nThe sentiment of the given sentence is:`,
});
