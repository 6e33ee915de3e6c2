import { stringField } from '../task.ts';
import { namedTask } from './named.ts';

/** E2E: a meaning representation (mr) to a customer review (ref). Template: ALoRA paper, appendix C. */
export const e2e = namedTask({
  name: 'e2e',
  fields: ['mr', 'ref'],
  textMetrics: ['bleu', 'rougeL', 'meteor'],
  prompt: (row) =>
    `Reference:\n${stringField(row, 'mr')}\nGenerate a customer review following the given reference.`,
  answer: (row) => ({ completion: stringField(row, 'ref') }),
});
