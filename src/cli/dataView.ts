import type { Split } from '../tasks/data.ts';
import { type PreviewExample, previewExample, summarizeSplit } from '../tasks/preview.ts';
import { formatSource } from '../tasks/task.ts';
import type { Tokenizer } from '../tasks/tokenizer.ts';
import { percent, thousands } from './format.ts';
import { table } from './table.ts';
import type { Colours } from './terminal.ts';

/** The splits of a run file by name; those that it does not name are absent. */
export type Splits = Readonly<Partial<Record<'train' | 'dev' | 'test', Split>>>;

/** What of the data `data --json` prints. */
export function dataSummary(splits: Splits) {
  return Object.fromEntries(
    given(splits).map(([name, split]) => [
      name,
      {
        ...summarizeSplit(split),
        dropped: split.dropped.map(({ reason, count, first }) => ({
          reason,
          count,
          first: formatSource(first),
        })),
      },
    ]),
  );
}

/** The first rows of train as `data --json` prints them: what each token is, and whether it is trained. */
export function firstRows(
  splits: Splits,
  rows: number,
  tokenizer: Tokenizer,
  labels?: readonly string[],
): PreviewExample[] {
  const examples = (splits.train?.examples ?? []).slice(0, rows);
  return examples.map((example) => previewExample(example, tokenizer, labels));
}

/**
 * The first rows of train as the model sees them: trained tokens green, masked ones dim; without colours, trained
 * tokens in brackets, and a token's class behind it. Then lengths, shares and dropped rows of every split.
 */
export function dataView(
  splits: Splits,
  { tokenizer, labels }: { readonly tokenizer: Tokenizer; readonly labels?: readonly string[] },
  rows: number,
  colours: Colours,
): string {
  const legend = colours.isColorSupported
    ? `${colours.green('trained')} ${colours.dim('masked')}`
    : '[trained] masked';
  const examples = firstRows(splits, rows, tokenizer, labels).map(
    (preview) => `${colours.bold(preview.where)}  ${describe(preview)}\n${tokens(preview, colours)}`,
  );
  const summary = dataSummary(splits);
  const lines = Object.entries(summary).map(([name, s]) => [
    name,
    ...[s.rows, s.examples, s.rows - s.examples, s.truncated].map(thousands),
    `${s.length.min} / ${s.length.median} / ${s.length.p95} / ${s.length.max}`,
    ...[s.tokens, s.labels].map(thousands),
    percent(s.trainedShare),
  ]);
  const head = [
    'split',
    'rows',
    'used',
    'dropped',
    'cut',
    'length min / median / 95 % / max',
    'tokens',
    'trained',
    'share',
  ];
  const dropped = Object.entries(summary).flatMap(([name, s]) =>
    s.dropped.map(
      ({ reason, count, first }) => `${name}: ${thousands(count)} dropped: ${reason} (first: ${first})`,
    ),
  );
  return [
    legend,
    ...examples,
    table(head, lines, 'lrrrrrrrr', colours),
    ...(dropped.length > 0 ? [dropped.join('\n')] : []),
  ].join('\n\n');
}

const describe = ({ kind, tokens: all, label, truncated }: PreviewExample): string => {
  const trained = all.filter((token) => token.trained).length;
  const learnt =
    label === undefined
      ? `${trained} of ${all.length} tokens ${kind === 'span' ? 'to find' : 'trained'}`
      : `${all.length} tokens, label ${label}`;
  return truncated ? `${learnt}, cut` : learnt;
};

/** The text of an example, its runs of trained tokens marked. */
function tokens({ tokens: all }: PreviewExample, colours: Colours): string {
  if (colours.isColorSupported)
    return all
      .map(({ piece, trained, tag }) => {
        const shown = trained ? colours.green(piece) : colours.dim(piece);
        return tag === undefined ? shown : shown + colours.cyan(`/${tag}`);
      })
      .join('');
  let text = '';
  for (const [i, { piece, trained, tag }] of all.entries()) {
    if (trained && (tag !== undefined || !all[i - 1]?.trained)) text += '[';
    text += tag === undefined ? piece : `${piece}/${tag}`;
    if (trained && (tag !== undefined || !all[i + 1]?.trained)) text += ']';
  }
  return text;
}

const given = (splits: Splits): [string, Split][] =>
  Object.entries(splits).filter((entry): entry is [string, Split] => entry[1] !== undefined);
