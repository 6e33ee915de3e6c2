import { createHash } from 'node:crypto';
import { AloraError, nearest } from '../errors.ts';
import { randomStream } from '../random.ts';
import { displayPath, hashFile, readDocument, readRows, resolveDataFiles } from './files.ts';
import { findTask } from './index.ts';
import {
  type Example,
  formatSource,
  isDropped,
  type PreparedTask,
  type Row,
  type Source,
  type TaskContext,
} from './task.ts';

export type SplitName = 'train' | 'dev' | 'test';

/** The `data` section of a run file, paths resolved, with what the model says about itself. */
export interface DataOptions extends TaskContext {
  readonly task: string;
  /** Path of a file, of a folder of .txt files, or a glob. */
  readonly train?: string;
  /** A path, or a share of train between 0 and 1. */
  readonly dev?: string | number;
  readonly test?: string | number;
  /** Most rows of each split: the first of a file; after shares are split off. */
  readonly maxRows?: Readonly<Partial<Record<SplitName, number>>>;
  /** Field of the task -> column of the files. */
  readonly columns?: Readonly<Record<string, string>>;
  /** Decides which rows a share takes. */
  readonly seed: number;
}

/** Rows left out for one reason. */
export interface DroppedRows {
  readonly reason: string;
  readonly count: number;
  /** The first of them. */
  readonly first: Source;
}

export interface Split {
  readonly examples: readonly Example[];
  /** Rows, or blocks of documents, that were read. */
  readonly rows: number;
  readonly dropped: readonly DroppedRows[];
  /** Examples that were cut to maxLength. */
  readonly truncated: number;
}

export interface DataFile {
  readonly split: SplitName;
  readonly path: string;
  readonly sha256: string;
}

export interface LoadedData {
  readonly task: PreparedTask;
  readonly train?: Split;
  readonly dev?: Split;
  readonly test?: Split;
  /** Sentences for the user, most important first. */
  readonly warnings: readonly string[];
  readonly files: readonly DataFile[];
  /** SHA-256 over the contents of all files in order: what a checkpoint compares. */
  readonly hash: string;
}

/** A row, or a block that a document was already cut into. */
type Unit = Row | Example;
const isExample = (unit: Unit): unit is Example => 'ids' in unit;

/** Rows of the beginning by which the guards judge a file. */
const guardRows = 100;

function checkOptions(options: DataOptions): PreparedTask {
  const task = findTask(options.task);
  const unknown = Object.keys(options.columns ?? {}).find((field) => !task.fields.includes(field));
  if (unknown !== undefined)
    throw new AloraError('config', 'COLUMNS_UNKNOWN_FIELD', `task ${task.name} has no field "${unknown}"`, {
      where: `data.columns.${unknown}`,
      got: unknown,
      allowed: task.fields,
      didYouMean: nearest(unknown, task.fields),
      fix: 'data.columns maps a field of the task to a column of the file, such as {text: sentence}',
    });
  if (options.labels && !task.usesLabels)
    throw new AloraError('config', 'LABELS_UNUSED', `task ${task.name} takes no data.labels`, {
      where: 'data.labels',
      fix: 'remove data.labels, or use task classification',
    });
  for (const name of ['dev', 'test'] as const) {
    const share = options[name];
    if (typeof share !== 'number') continue;
    if (!(share > 0 && share < 1))
      throw new AloraError('config', 'SHARE_OUT_OF_RANGE', `a share of train must lie between 0 and 1`, {
        where: `data.${name}`,
        got: share,
        allowed: 'a path, or a share such as 0.05',
        fix: 'write 0.05 for five percent of the training rows',
      });
    if (options.train === undefined)
      throw new AloraError(
        'config',
        'SHARE_WITHOUT_TRAIN',
        `data.${name} is a share of data.train, which is missing`,
        {
          where: `data.${name}`,
          fix: 'name data.train, or give a path',
        },
      );
  }
  return task.prepare(options);
}

async function readUnits(
  split: SplitName,
  path: string,
  task: PreparedTask,
  { columns, task: taskName }: DataOptions,
  limit: number,
): Promise<{ units: Unit[]; files: DataFile[] }> {
  const { kind, paths } = await resolveDataFiles(path);
  const units: Unit[] = [];
  if (kind === 'documents') {
    if (!task.encodeDocument)
      throw new AloraError(
        'config',
        'TASK_NEEDS_ROWS',
        `task ${taskName} needs rows with fields, but a .txt file is a document`,
        {
          where: `data.${split}`,
          got: displayPath(path),
          fix: 'use task text, or write the rows as .jsonl',
        },
      );
    for (const document of paths)
      for (const block of task.encodeDocument(await readDocument(document), displayPath(document)))
        units.push(block);
  } else
    for await (const row of readRows(paths, columns)) {
      if (units.length >= limit) break;
      units.push(row);
    }
  if (units.length === 0)
    throw new AloraError('data', 'DATA_EMPTY', 'the data file has no rows', {
      where: displayPath(path),
      fix: `put at least one row into data.${split}`,
    });
  const files: DataFile[] = [];
  for (const file of paths) files.push({ split, path: displayPath(file), sha256: await hashFile(file) });
  return { units: units.slice(0, limit), files };
}

/** Takes the shares out of train by one draw from the seed; every part keeps the order of the file. */
function takeShares(units: readonly Unit[], { dev, test, seed }: DataOptions): Record<SplitName, Unit[]> {
  const order = randomStream(seed, 'split').shuffle(units.map((_, i) => i));
  const count = (share: string | number | undefined) =>
    typeof share === 'number' ? Math.max(1, Math.round(share * units.length)) : 0;
  const [devCount, testCount] = [count(dev), count(test)];
  if (devCount + testCount >= units.length && devCount + testCount > 0)
    throw new AloraError('data', 'SHARE_TOO_LARGE', 'the shares leave no row to train on', {
      where: 'data.dev',
      got: `${devCount + testCount} of ${units.length} rows`,
      fix: 'take smaller shares, or more rows',
    });
  const part = (from: number, to: number) =>
    order
      .slice(from, to)
      .sort((a, b) => a - b)
      .map((i) => units[i] as Unit);
  return {
    dev: part(0, devCount),
    test: part(devCount, devCount + testCount),
    train: part(devCount + testCount, units.length),
  };
}

function encodeSplit(name: SplitName, units: readonly Unit[], task: PreparedTask, warnings: string[]): Split {
  const examples: Example[] = [];
  const dropped = new Map<string, { reason: string; count: number; first: Source }>();
  let droppedFirst = 0;
  for (const [i, unit] of units.entries()) {
    const outcome = isExample(unit) ? unit : task.encode(unit);
    if (!isDropped(outcome)) {
      examples.push(outcome);
      continue;
    }
    const entry = dropped.get(outcome.dropped) ?? { reason: outcome.dropped, count: 0, first: unit.source };
    dropped.set(outcome.dropped, { ...entry, count: entry.count + 1 });
    if (i < guardRows) droppedFirst++;
  }
  const reasons = [...dropped.values()].sort((a, b) => b.count - a.count);
  guard(name, units, droppedFirst, reasons, warnings);
  const share = (count: number) =>
    `${count} of ${units.length} rows (${Math.ceil((100 * count) / units.length)} %)`;
  for (const { reason, count, first } of reasons)
    warnings.push(`${name}: ${share(count)} left out: ${reason} (the first: ${formatSource(first)})`);
  const truncated = examples.filter((example) => example.truncated).length;
  if (truncated > 0) warnings.push(`${name}: ${share(truncated)} cut to data.maxLength`);
  const inToken = examples.filter((example) => example.boundaryInToken).length;
  if (inToken > 0)
    warnings.push(
      `${name}: in ${share(inToken)} prompt and completion meet inside a token: begin the completion with the blank instead of ending the prompt with it`,
    );
  return { examples, rows: units.length, dropped: reasons, truncated };
}

/** Refuses when nothing of the first rows would be learnt; warns when nearly nothing would. */
function guard(
  name: SplitName,
  units: readonly Unit[],
  droppedFirst: number,
  reasons: readonly DroppedRows[],
  warnings: string[],
): void {
  const seen = Math.min(guardRows, units.length);
  const [main] = reasons;
  if (!main) return;
  if (droppedFirst === seen)
    throw new AloraError(
      'data',
      'DATA_NOTHING_TRAINED',
      `nothing of ${name} would be learnt (rows 1 to ${seen}): ${main.reason}`,
      {
        where: formatSource(main.first),
        got: reasons.map(({ reason, count }) => `${reason}: ${count}`).join('; '),
        fix: main.reason.includes('maxLength')
          ? 'raise data.maxLength'
          : 'look at the rows with the data verb, and correct data.task or data.columns',
      },
    );
  if (droppedFirst >= 0.9 * seen && seen >= 10)
    warnings.unshift(
      `${name}: ${droppedFirst} of the first ${seen} rows leave nothing to learn: ${main.reason}`,
    );
}

/**
 * Reads, checks and tokenises the splits that the options name.
 *
 * @throws AloraError of kind config for options that do not fit together, of kind data naming file and line of what is
 * missing or bad.
 */
export async function loadData(options: DataOptions): Promise<LoadedData> {
  const task = checkOptions(options);
  const warnings: string[] = [];
  const files: DataFile[] = [];
  const units: Partial<Record<SplitName, Unit[]>> = {};
  const limit = (name: SplitName) => options.maxRows?.[name] ?? Number.POSITIVE_INFINITY;
  const shared = typeof options.dev === 'number' || typeof options.test === 'number';
  for (const name of ['train', 'dev', 'test'] as const) {
    const path = options[name];
    if (typeof path !== 'string') continue;
    const wanted = name === 'train' && shared ? Number.POSITIVE_INFINITY : limit(name);
    const read = await readUnits(name, path, task, options, wanted);
    units[name] = read.units;
    files.push(...read.files);
  }
  if (shared) {
    const parts = takeShares(units.train ?? [], options);
    units.train = parts.train.slice(0, limit('train'));
    if (typeof options.dev === 'number') units.dev = parts.dev.slice(0, limit('dev'));
    if (typeof options.test === 'number') units.test = parts.test.slice(0, limit('test'));
  }
  const { modelMaxLength } = options.tokenizer;
  if (modelMaxLength !== undefined && options.maxLength > modelMaxLength)
    warnings.push(
      `data.maxLength is ${options.maxLength}, but the tokenizer says that the model takes at most ${modelMaxLength} tokens`,
    );
  for (const file of files)
    if (
      file.split !== 'train' &&
      files.some((other) => other.split === 'train' && other.sha256 === file.sha256)
    )
      warnings.push(
        `${file.path} has the same content as a file of train: its score says nothing about new text`,
      );
  const encode = (name: SplitName) => {
    const own = units[name];
    return own && encodeSplit(name, own, task, warnings);
  };
  const [train, dev, test] = [encode('train'), encode('dev'), encode('test')];
  const hash = createHash('sha256').update(files.map((file) => `${file.split} ${file.sha256}\n`).join(''));
  return { task, train, dev, test, warnings, files, hash: hash.digest('hex') };
}
