import { AloraError, nearest } from '../errors.ts';
import type { Meter } from './metrics/meter.ts';
import type { Tokenizer } from './tokenizer.ts';

/** Where in the data something came from: line of a text file, row of a parquet file, block of a document. */
export interface Source {
  readonly file: string;
  /** From 1. */
  readonly line: number;
  readonly unit?: 'line' | 'row' | 'block';
}

/** `data/train.jsonl:12`, or `data/train.parquet (row 12)`. */
export function formatSource({ file, line, unit = 'line' }: Source): string {
  return unit === 'line' ? `${file}:${line}` : `${file} (${unit} ${line})`;
}

/** One row of a data file, fields as they stand in it. */
export interface Row {
  readonly source: Source;
  readonly fields: Readonly<Record<string, unknown>>;
}

/**
 * What an example asks of the model. `token`: the next token at a position, logits [batch, length, vocabulary].
 * `sequence`: a class per row, logits [batch, classes]. `tag`: a class per position, logits [batch, length, classes].
 * `span`: the positions of the first and the last token of an answer, logits [batch, 2, length].
 */
export type ExampleKind = 'token' | 'sequence' | 'tag' | 'span';

/** Numbers that a model reads beside tokens; the first length counts rows. */
export interface Features {
  readonly data: Float32Array;
  readonly dims: readonly number[];
}

/** One tokenised row. */
export interface Example {
  readonly kind: ExampleKind;
  readonly ids: readonly number[];
  readonly typeIds?: readonly number[];
  /**
   * Kind `token`: as long as `ids`; at each position the id to predict THERE (the next token: labels are shifted here
   * and nowhere else), -1 where nothing is trained. Kind `tag`: the same with the position's own class. Kind
   * `sequence`: one number, the class. Kind `span`: the positions of the first and the last token.
   */
  readonly targets: readonly number[];
  readonly source: Source;
  /** The text before the part to be learnt; `generate` and metrics on generated text start from it. */
  readonly prompt?: string;
  /** The text to be learnt. */
  readonly completion?: string;
  /** All right answers, where a metric accepts several. */
  readonly references?: readonly string[];
  /** Inputs of the model that are not tokens, one row each, by name; computed anew by every call. */
  readonly features?: () => Readonly<Record<string, Features>>;
  /** Kind `span`: the text that the answer is part of, and which of `ids` are its tokens. */
  readonly passage?: { readonly text: string; readonly first: number; readonly length: number };
  /** True when the last trained place is an end token that does not count for `accuracy`. */
  readonly endUncounted?: boolean;
  /** True when something of the row did not fit in maxLength. */
  readonly truncated?: boolean;
  /** True when a token of the whole text would span the end of the prompt (a prompt that ends with a blank). */
  readonly boundaryInToken?: boolean;
}

/** Why a well-formed row is left out of training. */
export interface Dropped {
  readonly dropped: string;
}

export const isDropped = (outcome: Example | Dropped): outcome is Dropped => 'dropped' in outcome;

/** What a task is given to turn rows into examples. */
export interface TaskContext {
  readonly tokenizer: Tokenizer;
  /** Most tokens of an example. */
  readonly maxLength: number;
  /** Words of the classes, `data.labels` (classification on a decoder). */
  readonly labels?: readonly string[];
  /** How the model wants sound, where it reads any. */
  readonly speech?: Speech;
  /** The model's head; absent for a decoder. */
  readonly head?: ModelHead;
}

/** How a model wants sound. */
export interface Speech {
  /** Hz. */
  readonly samplingRate: number;
  /** The token that the decoder starts with. */
  readonly startId: number;
  /** Features of one recording, [1, ...]. */
  readonly features: (wave: Float32Array) => Features;
}

/** What a head predicts; see ExampleKind. */
export type HeadKind = Exclude<ExampleKind, 'token'>;

export interface ModelHead {
  /** Default: a class for each row. */
  readonly kind?: HeadKind;
  /** Number of classes; 2 for the ends of a span. */
  readonly size: number;
  /** Names of the classes, `id2label` of config.json. */
  readonly id2label?: Readonly<Record<string, string>>;
}

export type MetricName =
  | 'perplexity'
  | 'tokenAccuracy'
  | 'accuracy'
  | 'precision'
  | 'recall'
  | 'f1'
  | 'em'
  | 'bleu'
  | 'rougeL'
  | 'meteor'
  | 'wordErrorRate';

/** A task as it stands for one tokenizer and one model. */
export interface PreparedTask {
  readonly kind: ExampleKind;
  /** Metrics read off the predictions at the trained positions, beside the loss. */
  readonly metrics: readonly MetricName[];
  /** Metrics that need generated answers; computed by who generates. */
  readonly textMetrics?: readonly MetricName[];
  /** Names of the classes, for a preview of tags. */
  readonly labels?: readonly string[];
  /** Metrics that one prediction alone does not tell; a new meter for each evaluation of a split. */
  readonly meter?: () => Meter;
  /**
   * Tokenises one row.
   *
   * @throws AloraError of kind data naming file and line of a bad row.
   */
  encode(row: Row): Example | Dropped;
  /** Cuts a document (a .txt file) into examples; a task without it takes rows only. */
  encodeDocument?(text: string, file: string): Example[];
}

/** A way of turning rows into something to learn: one small file, one line in `index.ts`. */
export interface Task {
  readonly name: string;
  /** The fields of a row that it reads; `data.columns` may rename these. */
  readonly fields: readonly string[];
  /** Names of its classes, where the task itself knows them: what a new head gets. */
  readonly labels?: readonly string[];
  /** The head that it trains, where the model has one; a class for each row unless it says otherwise. */
  readonly head?: HeadKind;
  /** True when it is for models that read sound, and for no others. */
  readonly hears?: boolean;
  /** True when `data.labels` says something to it. */
  readonly usesLabels?: boolean;
  /**
   * Checks tokenizer and model before any row is read.
   *
   * @throws AloraError of kind config naming the missing key.
   */
  prepare(context: TaskContext): PreparedTask;
}

const describe = (value: unknown): string =>
  value === null ? 'null' : Array.isArray(value) ? 'a list' : typeof value;

/** A data error that names file and line. */
export function rowError(
  source: Source,
  message: string,
  details: { got?: unknown; allowed?: string; fix: string },
) {
  return new AloraError('data', 'DATA_BAD_ROW', message, { where: formatSource(source), ...details });
}

function missingField(row: Row, name: string): AloraError {
  const columns = Object.keys(row.fields);
  const near = nearest(name, columns);
  const example = near ?? columns.find((column) => typeof row.fields[column] === 'string') ?? 'column';
  return new AloraError('data', 'DATA_MISSING_FIELD', `the row has no field "${name}"`, {
    where: formatSource(row.source),
    got: columns.join(', ') || 'no fields',
    didYouMean: near,
    fix: `rename the column, or say data.columns: {${name}: ${example}}`,
  });
}

/** The field as a string; a missing field or another type is a data error. */
export function stringField(row: Row, name: string): string {
  const value = row.fields[name];
  if (typeof value === 'string') return value;
  if (value === undefined || value === null) throw missingField(row, name);
  throw rowError(row.source, `field "${name}" must be a string, but is ${describe(value)}`, {
    got: value,
    fix: `write the value of "${name}" in quotes`,
  });
}

/** The field as it stands; a missing field is a data error. */
export function anyField(row: Row, name: string): unknown {
  const value = row.fields[name];
  if (value === undefined || value === null) throw missingField(row, name);
  return value;
}

/** Next-token targets of causal training: `trained[t]` says whether token t is learnt; nothing predicts token 0. */
export function nextTokenTargets(ids: readonly number[], isTrained: (position: number) => boolean): number[] {
  return ids.map((_, t) => (t + 1 < ids.length && isTrained(t + 1) ? (ids[t + 1] as number) : -1));
}
