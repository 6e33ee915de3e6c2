import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { classification } from '../../src/tasks/classification.ts';
import { findTask, tasks } from '../../src/tasks/index.ts';
import { type Example, isDropped, type PreparedTask, type Row } from '../../src/tasks/task.ts';
import { loadTokenizer } from '../../src/tasks/tokenizer.ts';

const load = (kind: string) =>
  loadTokenizer(join(fileURLToPath(new URL('../../fixtures/tokenizers/', import.meta.url)), kind));
const bert = await load('bert');
const gpt2 = await load('gpt2');
const row = (fields: Record<string, unknown>): Row => ({ source: { file: 'a.csv', line: 3 }, fields });
const encode = (task: PreparedTask, fields: Record<string, unknown>): Example => {
  const outcome = task.encode(row(fields));
  if (isDropped(outcome)) throw new Error(outcome.dropped);
  return outcome;
};

describe('classification with a head', () => {
  const head = { size: 2, id2label: { 0: 'ham', 1: 'spam' } };
  const task = classification.prepare({ tokenizer: bert, maxLength: 16, head });

  it('has one class per row and the type ids of a pair', () => {
    const single = encode(task, { text: 'the dog', label: 1 });
    expect(single).toMatchObject({ kind: 'sequence', ids: bert.encode('the dog').ids, targets: [1] });
    const pair = encode(task, { text: 'the dog', text_pair: 'the fox', label: 0 });
    expect(pair.typeIds).toEqual(bert.encode('the dog', 'the fox').typeIds);
    expect(pair.typeIds).toContain(1);
  });

  it('takes integers, numbers as text (csv) and names', () => {
    for (const label of [1, '1', 'spam', 'SPAM'])
      expect(encode(task, { text: 'a', label }).targets).toEqual([1]);
  });

  it('refuses other labels with file, line and the names', () => {
    for (const label of [2, -1, 0.5, 'spamm', true, []].filter((l) => l !== true))
      expect(() => task.encode(row({ text: 'a', label }))).toThrow(
        expect.objectContaining({
          kind: 'data',
          code: 'DATA_BAD_LABEL',
          details: expect.objectContaining({
            where: 'a.csv:3',
            got: label,
            allowed: ['ham', 'spam', '0 to 1'],
            didYouMean: label === 'spamm' ? 'spam' : undefined,
          }),
        }),
      );
  });

  it('cuts to maxLength with special tokens kept', () => {
    const { ids, truncated } = encode(task, { text: 'the dog '.repeat(20), label: 0 });
    expect(ids.length).toBe(16);
    expect([ids[0], ids.at(-1)]).toEqual([2, 3]);
    expect(truncated).toBe(true);
  });
});

describe('classification on a decoder', () => {
  it('needs data.labels', () => {
    for (const labels of [undefined, ['one'], ['a', 'a'], ['a', ' ']])
      expect(() => classification.prepare({ tokenizer: gpt2, maxLength: 16, labels })).toThrow(
        expect.objectContaining({
          kind: 'config',
          details: expect.objectContaining({ where: 'data.labels' }),
        }),
      );
  });

  it('learns the label word and the end token', () => {
    const task = classification.prepare({ tokenizer: gpt2, maxLength: 64, labels: ['no', 'yes'] });
    const example = encode(task, { text: 'who sleeps?', label: 1 });
    expect(example).toMatchObject({ kind: 'token', prompt: 'who sleeps?\n', completion: 'yes' });
    const learnt = example.targets.filter((target) => target >= 0);
    expect(gpt2.decode(learnt)).toBe('yes<|endoftext|>');
    expect(encode(task, { text: 'who sleeps?', label: 'yes' }).ids).toEqual(example.ids);
    expect(example.endUncounted).toBe(true);
    const nested = classification.prepare({ tokenizer: gpt2, maxLength: 64, labels: ['no', 'now'] });
    expect(encode(nested, { text: 'who sleeps?', label: 1 }).endUncounted).toBe(false);
  });
});

describe('the registry', () => {
  it('suggests the nearest task', () => {
    expect(() => findTask('promt')).toThrow(
      expect.objectContaining({
        kind: 'config',
        code: 'CONFIG_UNKNOWN_TASK',
        details: expect.objectContaining({ didYouMean: 'prompt', where: 'data.task' }),
      }),
    );
    for (const [name, task] of Object.entries(tasks)) expect(task.name).toBe(name);
  });
});

describe('named tasks', () => {
  /** Row, prompt with the line end before the answer, answer. */
  const templates: Record<string, [row: Record<string, unknown>, prompt: string, answer: string]> = {
    rte: [
      { sentence1: 'A.', sentence2: 'B.', label: 1 },
      'sentence 1: A.\nsentence 2: B.\nAre sentence 1 and sentence 2 have entailment relation or not?\n',
      'not entailment',
    ],
    qnli: [
      { question: 'A?', sentence: 'B.', label: 'not_entailment' },
      'sentence 1: A?\nsentence 2: B.\nAre sentence 1 and sentence 2 have entailment relation or not?\n',
      'not entailment',
    ],
    sst2: [
      { sentence: 'a fine film', label: 1 },
      'a fine film\nThe sentiment of the given sentence is:\n',
      'positive',
    ],
    boolq: [
      { passage: 'P.', question: 'is it', label: true },
      'Reference document:\nP.\nQuestion:\nis it\n',
      'yes',
    ],
    copa: [
      { premise: 'It rained.', choice1: 'wet', choice2: 'dry', question: 'effect', label: 0 },
      'Premise:\nIt rained.\nChoice 1: wet\nChoice 2: dry\nQuestion:\nWhat happened as a result?\n',
      '1',
    ],
    squad: [
      { context: 'C.', question: 'Q?', answers: { text: ['A', 'A', 'the A'], answer_start: [0, 0, 0] } },
      'Context:\nC.\nQuestion:\nQ?\n',
      'A',
    ],
    'qa-span': [
      { context: 'C.', question: 'Q?', answers: [{ text: 'A', answer_start: 0 }] },
      'Context:\nC.\nQuestion:\nQ?\n',
      'A',
    ],
    record: [
      { passage: 'P.', query: 'Q @placeholder', answers: ['A'] },
      'Context:\nP.\nQuestion:\nQ @placeholder\n',
      'A',
    ],
    e2e: [
      { mr: 'name[X]', ref: 'X is good.' },
      'Reference:\nname[X]\nGenerate a customer review following the given reference.\n',
      'X is good.',
    ],
    alpaca: [
      { instruction: 'Add.', input: '1 1', output: '2' },
      'Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 1\n\n### Response:\n',
      '2',
    ],
    trec: [{ text: 'Who?', coarse_label: 'HUM' }, 'Who?\nThe type of the question is:\n', 'HUM'],
  };
  for (const [name, [fields, prompt, answer]] of Object.entries(templates))
    it(`${name} follows its template`, () => {
      const example = encode(findTask(name).prepare({ tokenizer: gpt2, maxLength: 512 }), fields);
      expect(example.prompt).toBe(prompt);
      expect(example.completion).toBe(answer);
      expect(gpt2.decode(example.ids)).toBe(`${prompt}${answer}<|endoftext|>`);
    });

  it('read texts and class for a model with a head', () => {
    const rte = findTask('rte').prepare({ tokenizer: bert, maxLength: 32, head: { size: 2 } });
    const example = encode(rte, { sentence1: 'the dog', sentence2: 'the fox', label: 1 });
    expect(example).toMatchObject({
      kind: 'sequence',
      ids: bert.encode('the dog', 'the fox').ids,
      targets: [1],
    });
    expect(() => findTask('trec').prepare({ tokenizer: bert, maxLength: 32, head: { size: 2 } })).toThrow(
      /6 classes/,
    );
    expect(() => findTask('e2e').prepare({ tokenizer: bert, maxLength: 32, head: { size: 2 } })).toThrow(
      /head/,
    );
  });

  it('tell the classes that a new head needs', () => {
    expect(findTask('trec').labels).toEqual(['ABBR', 'ENTY', 'DESC', 'HUM', 'LOC', 'NUM']);
    expect(findTask('e2e').labels).toBeUndefined();
  });

  it('keep all answers as references', () => {
    const squad = findTask('squad').prepare({ tokenizer: gpt2, maxLength: 512 });
    expect(encode(squad, templates.squad![0]).references).toEqual(['A', 'the A']);
    expect(() => squad.encode(row({ context: 'c', question: 'q', answers: { text: [] } }))).toThrow(
      /holds no answer/,
    );
  });
});
