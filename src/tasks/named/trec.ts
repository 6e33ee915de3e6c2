import { stringField } from '../task.ts';
import { namedTask } from './named.ts';

/**
 * TREC question types, six coarse classes in the order ABBR, ENTY, DESC, HUM, LOC, NUM. The paper has no template for
 * it; this one is ours.
 */
export const trec = namedTask({
  name: 'trec',
  fields: ['text', 'coarse_label'],
  labels: ['ABBR', 'ENTY', 'DESC', 'HUM', 'LOC', 'NUM'],
  labelField: 'coarse_label',
  texts: (row) => [stringField(row, 'text')],
  prompt: (row) => `${stringField(row, 'text')}\nThe type of the question is:`,
});
