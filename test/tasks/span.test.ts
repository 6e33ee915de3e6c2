import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { AloraError } from '../../src/errors.ts';
import { collate } from '../../src/tasks/collate.ts';
import { findTask } from '../../src/tasks/index.ts';
import { bestSpan } from '../../src/tasks/span.ts';
import { type Example, isDropped, type Row } from '../../src/tasks/task.ts';
import { loadTokenizer } from '../../src/tasks/tokenizer.ts';

const tokenizer = await loadTokenizer(fileURLToPath(new URL('../../fixtures/models/bert', import.meta.url)));
const prepared = (maxLength = 32) =>
  findTask('qa-span').prepare({ tokenizer, maxLength, head: { kind: 'span', size: 2 } });
const row = (fields: Record<string, unknown>): Row => ({ source: { file: 'qa.jsonl', line: 3 }, fields });
const fog = {
  question: 'was it red',
  context: 'The fog, the rain; the Snow fog.',
  answers: { text: ['fog'], answer_start: [28] },
};

function encoded(fields: Record<string, unknown>, maxLength?: number): Example {
  const outcome = prepared(maxLength).encode(row(fields));
  if (isDropped(outcome)) throw new Error(outcome.dropped);
  return outcome;
}

const answerOf = ({ ids, targets: [first, last] }: Example) => tokenizer.decode(ids.slice(first, last! + 1));

describe('qa-span on a model with a span head', () => {
  it('encodes question and context as one pair and points at the tokens of the answer', () => {
    const example = encoded(fog);
    const whole = tokenizer.encode(fog.question, fog.context);
    expect({ ids: example.ids, typeIds: example.typeIds }).toEqual(whole);
    expect(answerOf(example)).toBe('fog');
    // The second fog, as answer_start says.
    expect(example.targets).toEqual([whole.ids.length - 3, whole.ids.length - 3]);
  });

  it('takes the first occurrence where nothing says which', () => {
    const { targets, passage } = encoded({ ...fog, answers: ['fog'] });
    expect(targets).toEqual([passage!.first + 1, passage!.first + 1]);
    expect(answerOf(encoded({ ...fog, answers: ['rain; the Snow'] }))).toBe('rain [UNK] the snow');
  });

  it('counts answer_start in code points, as Python does', () => {
    const { targets, passage } = encoded({
      question: 'was it red',
      context: '\u{1f41f} fog fog',
      answers: [{ text: 'fog', answer_start: 6 }],
    });
    expect(targets[0]).toBe(passage!.first + 2);
  });

  it('cuts the context alone, and leaves out rows whose answer is cut off or absent', () => {
    const length = encoded(fog).ids.length;
    const cut = encoded({ ...fog, answers: ['fog'] }, length - 2);
    expect(cut).toMatchObject({ truncated: true });
    expect(cut.ids.length).toBe(length - 2);
    expect(cut.ids.at(-1)).toBe(3);
    const drop = (fields: Record<string, unknown>, maxLength = 32) => prepared(maxLength).encode(row(fields));
    expect(drop(fog, length - 2)).toEqual({ dropped: 'the answer lies beyond maxLength' });
    expect(drop(fog, 6)).toEqual({
      dropped: 'the question leaves no room for the context within maxLength',
    });
    expect(drop({ ...fog, answers: ['kettle'] })).toEqual({
      dropped: 'the answer does not stand in the context',
    });
  });

  it('refuses rows without an answer, and models that neither write nor find spans', () => {
    expect(() => prepared().encode(row({ ...fog, answers: { text: [] } }))).toThrow(/holds no answer/);
    expect(() => findTask('qa-span').prepare({ tokenizer, maxLength: 8, head: { size: 3 } })).toThrow(
      AloraError,
    );
  });
});

describe('the best span', () => {
  it('ends no earlier than it starts, stays in the passage, and is at most 30 tokens long', () => {
    //                     question | passage      | end
    const start = [9, 9, /**/ 0, 1, 5, 0, /**/ 9];
    const end = [9, 9, /*  */ 6, 0, 1, 2, /**/ 9];
    expect(bestSpan(start, end, { first: 2, length: 4 })).toEqual([4, 5]);
    const flat = new Array<number>(40).fill(0);
    const far = flat.map((_, i) => (i === 39 ? 5 : i === 0 ? 4 : 0));
    expect(bestSpan(far, flat.with(31, 1).with(39, 3), { first: 0, length: 40 })).toEqual([39, 39]);
    expect(bestSpan(flat.with(0, 4), flat.with(29, 1).with(30, 2), { first: 0, length: 40 })).toEqual([
      0, 29,
    ]);
  });

  it('is scored by its text in the context, the best of all answers', () => {
    const { meter } = prepared();
    const examples = [
      encoded({ ...fog, answers: ['fog', 'the Snow fog'] }),
      encoded({ ...fog, answers: ['rain'] }),
    ];
    const batch = collate(examples, { padId: 0 });
    expect([...batch.rows]).toEqual([0n, 1n, 2n, 3n]);
    const logits = new Float32Array(4 * batch.length);
    const { first } = examples[0]!.passage!;
    const set = (place: number, end: number, at: number) => {
      logits[place * batch.length + at] = 1;
      logits[(place + 1) * batch.length + end] = 1;
    };
    // Of "the fog , the rain ; the snow fog .": "the Snow fog", whose article does not count; then "the rain".
    set(0, first + 8, first + 6);
    set(2, first + 4, first + 3);
    const gauge = meter!();
    gauge.add(batch, { predicted: [], logits });
    expect(gauge.result()).toEqual({ em: 1, f1: 1 });
    const wrong = meter!();
    wrong.add(batch, { predicted: [], logits: new Float32Array(4 * batch.length) });
    // All equal: the first token of the passage, "The", which is an article and no word.
    expect(wrong.result()).toEqual({ em: 0, f1: 0 });
  });
});
