import type { Batch } from './collate.ts';
import type { Meter } from './metrics/meter.ts';
import { exactMatch, f1 } from './metrics/squad.ts';
import { type AlignedText, textAligner } from './offsets.ts';
import {
  anyField,
  type Dropped,
  type Example,
  type PreparedTask,
  type Row,
  rowError,
  stringField,
  type TaskContext,
} from './task.ts';

/** Longest predicted answer in tokens: max_answer_length of transformers' example for SQuAD. */
const longestAnswer = 30;

/** An answer, and where the row says that it begins: code points from the beginning of the context. */
export interface Answer {
  readonly text: string;
  readonly start?: number;
}

/** `{"text": ["...", ...], "answer_start": [...]}` as in the data set, or a list of strings or of such objects. */
export function readAnswers(row: Row): Answer[] {
  const value = anyField(row, 'answers') as Record<string, unknown> | unknown[];
  const entries: unknown[] = Array.isArray(value)
    ? value
    : Array.isArray(value.text)
      ? value.text.map((text: unknown, i) => ({ text, answer_start: (value.answer_start as unknown[])?.[i] }))
      : [];
  const answers = entries.flatMap((entry): Answer[] => {
    const given = typeof entry === 'string' ? { text: entry } : ((entry ?? {}) as Record<string, unknown>);
    const { text, answer_start: start } = given as Record<string, unknown>;
    return typeof text === 'string' ? [{ text, start: typeof start === 'number' ? start : undefined }] : [];
  });
  if (answers.length > 0 && answers.length === entries.length) return answers;
  throw rowError(row.source, 'field "answers" holds no answer', {
    got: JSON.stringify(value)?.slice(0, 80),
    allowed: '{"text": ["...", ...]} or ["...", ...]',
    fix: 'give each question at least one answer; questions without one are not part of SQuAD 1.1',
  });
}

/** The different texts of the answers. */
export const answerTexts = (answers: readonly Answer[]): string[] => [
  ...new Set(answers.map(({ text }) => text)),
];

/** Where an answer stands in the context: as the row says, else its first occurrence; -1 where it does not. */
function placeOf({ text, start }: Answer, context: string): number {
  if (start !== undefined) {
    // Python counts code points, a string here UTF-16 units.
    const place = [...context].slice(0, start).join('').length;
    if (context.startsWith(text, place)) return place;
  }
  return context.indexOf(text);
}

type Align = (text: string) => AlignedText;

/**
 * Question and context as one pair; the context alone loses what does not fit in `maxLength`. To predict: the positions
 * of the tokens with the answer's first and last character.
 */
function encodeSpan(
  row: Row,
  { tokenizer, maxLength, align }: Pick<TaskContext, 'tokenizer' | 'maxLength'> & { align: Align },
): Example | Dropped {
  const question = stringField(row, 'question');
  const context = stringField(row, 'context');
  const answers = readAnswers(row);
  const [answer] = answers as [Answer];
  const place = placeOf(answer, context);
  if (place < 0 || answer.text.trim() === '') return { dropped: 'the answer does not stand in the context' };
  const questionIds = tokenizer.encodePlain(question);
  const room = maxLength - tokenizer.assemble(questionIds, []).ids.length;
  if (room < 1) return { dropped: 'the question leaves no room for the context within maxLength' };
  const { ids: all, spans } = align(context);
  const first = spans.findIndex(([, end]) => end > place);
  const last = spans.findLastIndex(([start]) => start < place + answer.text.length);
  if (last >= room) return { dropped: 'the answer lies beyond maxLength' };
  const kept = all.slice(0, room);
  const { ids, typeIds, pairAt } = tokenizer.assemble(questionIds, kept);
  return {
    kind: 'span',
    ids,
    typeIds,
    targets: [pairAt + first, pairAt + last],
    source: row.source,
    prompt: question,
    completion: answer.text,
    references: answerTexts(answers),
    passage: { text: context, first: pairAt, length: kept.length },
    truncated: kept.length < all.length,
  };
}

/**
 * The span [first, last] of the highest sum of start and end logit among those within the passage that are at most
 * `longestAnswer` tokens long.
 */
export function bestSpan(
  start: ArrayLike<number>,
  end: ArrayLike<number>,
  { first, length }: { readonly first: number; readonly length: number },
): readonly [number, number] {
  let best = Number.NEGATIVE_INFINITY;
  let span: readonly [number, number] = [first, first];
  for (let s = first; s < first + length; s++)
    for (let e = s; e < Math.min(first + length, s + longestAnswer); e++) {
      const score = start[s]! + end[e]!;
      if (score <= best) continue;
      best = score;
      span = [s, e];
    }
  return span;
}

/** SQuAD's exact match and F1 of the best span's text, the best over all answers, averaged over the examples. */
function spanMeter(align: Align): Meter {
  const totals = { examples: 0, em: 0, f1: 0 };
  return {
    logits: true,
    add(batch: Batch, { logits }) {
      batch.items.forEach(({ passage, references = [] }, b) => {
        const rows = [2 * b, 2 * b + 1].map((row) =>
          logits!.subarray(row * batch.length, (row + 1) * batch.length),
        ) as [Float32Array, Float32Array];
        const [s, e] = bestSpan(...rows, passage!);
        const { spans } = align(passage!.text);
        const text = passage!.text.slice(spans[s - passage!.first]![0], spans[e - passage!.first]![1]);
        totals.examples++;
        totals.em += Math.max(...references.map((reference) => exactMatch(text, reference)));
        totals.f1 += Math.max(...references.map((reference) => f1(text, reference)));
      });
    },
    result: () => ({ f1: totals.f1 / totals.examples, em: totals.em / totals.examples }),
  };
}

/** Questions on a context for a model that predicts the two ends of the answer: fields question, context, answers. */
export function prepareSpan({ tokenizer, maxLength }: TaskContext): PreparedTask {
  const align = textAligner(tokenizer);
  return {
    kind: 'span',
    metrics: [],
    meter: () => spanMeter(align),
    encode: (row) => encodeSpan(row, { tokenizer, maxLength, align }),
  };
}
