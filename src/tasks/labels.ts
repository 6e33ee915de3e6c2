import { AloraError, nearest } from '../errors.ts';
import { encodePrompt } from './prompt.ts';
import {
  type Dropped,
  type Example,
  formatSource,
  isDropped,
  type ModelHead,
  type Row,
  type TaskContext,
} from './task.ts';

/** Names of the head's classes in order; `LABEL_3` and the like where the model names none. */
function headLabels({ size, id2label }: ModelHead): string[] {
  return Array.from({ length: size }, (_, i) => id2label?.[String(i)] ?? `LABEL_${i}`);
}

/**
 * The names of a head's classes: `data.labels`, else the model's own.
 *
 * @throws AloraError of kind config when there are more names than the head has classes.
 */
export function classNames(head: ModelHead, labels: readonly string[] | undefined): readonly string[] {
  const names = labels ?? headLabels(head);
  if (names.length <= head.size) return names;
  throw new AloraError(
    'config',
    'LABELS_EXCEED_HEAD',
    `data.labels names ${names.length} classes, the head has ${head.size}`,
    {
      where: 'data.labels',
      got: names.join(', '),
      allowed: `${head.size} names`,
      fix: 'name as many classes as the head has, or leave data.labels out: the names then come from id2label',
    },
  );
}

const spoken = (name: string) => name.trim().toLowerCase().replaceAll('_', ' ');

/**
 * The class that a row's label means: a name (case and underscores aside), or an integer below the number of names.
 *
 * @throws AloraError of kind data naming file and line, what stood there, and the names.
 */
export function resolveLabel(value: unknown, names: readonly string[], row: Row, field: string): number {
  if (typeof value === 'string') {
    const exact = names.indexOf(value);
    const index = exact >= 0 ? exact : names.findIndex((name) => spoken(name) === spoken(value));
    if (index >= 0) return index;
  }
  const number =
    typeof value === 'boolean'
      ? Number(value)
      : typeof value === 'string' && /^\s*\d+\s*$/.test(value)
        ? Number(value)
        : value;
  if (typeof number === 'number' && Number.isInteger(number) && number >= 0 && number < names.length)
    return number;
  throw new AloraError('data', 'DATA_BAD_LABEL', `field "${field}" is not a label of this task`, {
    where: formatSource(row.source),
    got: value,
    allowed: [...names, `0 to ${names.length - 1}`],
    didYouMean: typeof value === 'string' ? nearest(value, names) : undefined,
    fix:
      value === -1 ? 'rows without a label (-1) cannot be used: remove them' : `correct the row's ${field}`,
  });
}

/**
 * A decoder's way to say a class: the prompt, then the word, then the end token. The end token is learnt but does not
 * count for `accuracy`, unless one word begins another and only the end tells them apart.
 */
export function encodeLabelWord(
  prompt: string,
  { words, label }: { words: readonly string[]; label: number },
  context: Pick<TaskContext, 'tokenizer' | 'maxLength'> & { source: Row['source'] },
): Example | Dropped {
  const example = encodePrompt({ prompt, completion: words[label] as string }, context);
  if (isDropped(example)) return example;
  const nested = words.some((word, i) => words.some((other, j) => i !== j && other.startsWith(word)));
  const ended = example.ids.at(-1) === context.tokenizer.eosId;
  return { ...example, endUncounted: ended && !nested };
}
