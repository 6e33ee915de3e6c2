import { type Row, stringField } from '../task.ts';
import { namedTask } from './named.ts';

const optionalInput = (row: Row) => (row.fields.input === undefined ? '' : stringField(row, 'input'));

function prompt(row: Row): string {
  const instruction = stringField(row, 'instruction');
  const input = optionalInput(row);
  if (input.trim() === '')
    return [
      'Below is an instruction that describes a task. Write a response that appropriately completes the request.',
      `### Instruction:\n${instruction}`,
      '### Response:',
    ].join('\n\n');
  return [
    'Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.',
    `### Instruction:\n${instruction}`,
    `### Input:\n${input}`,
    '### Response:',
  ].join('\n\n');
}

/** Alpaca: an instruction, perhaps an input, an output, in the layout of stanford_alpaca. */
export const alpaca = namedTask({
  name: 'alpaca',
  fields: ['instruction', 'input', 'output'],
  textMetrics: ['rougeL'],
  prompt,
  answer: (row) => ({ completion: stringField(row, 'output') }),
});
