import type { LinearModule } from '../adapters/module.ts';
import type { RunConfig } from '../config/schema.ts';
import { AloraError } from '../errors.ts';
import type { Backbone } from '../runtime/backbone.ts';
import type { ModelDirectory } from '../runtime/modelDirectory.ts';
import { loadData, type Split } from '../tasks/data.ts';
import { readRows, resolveDataFiles } from '../tasks/files.ts';
import { findTask, tasks } from '../tasks/index.ts';
import type { Example, ModelHead, PreparedTask, Task } from '../tasks/task.ts';
import { listField } from '../tasks/tokenClassification.ts';
import { loadTokenizer, type Tokenizer } from '../tasks/tokenizer.ts';
import { requireTrainableHead } from './heads.ts';
import type { RunInfo, SplitInfo } from './reporter.ts';
import { hears, speechOf } from './speech.ts';

/** The rows of a run, tokenised. Splits that the run file does not name are empty. */
export interface RunData {
  readonly tokenizer: Tokenizer;
  readonly task: PreparedTask;
  readonly train: readonly Example[];
  readonly dev: readonly Example[];
  readonly test: readonly Example[];
  readonly padId: number;
  /** Classes of a new head; undefined where the model brings its own, or writes text. */
  readonly classes: number | undefined;
  /** Their names. */
  readonly classNames: readonly string[];
  /** Longest input of the model, where config.json says so. */
  readonly contextLength: number | undefined;
  /** Most tokens of a row. */
  readonly maxLength: number;
  readonly warnings: readonly string[];
  /** The splits as read, with the rows that were left out. */
  readonly splits: Readonly<Partial<Record<'train' | 'dev' | 'test', Split>>>;
  readonly hash: string;
  readonly info: RunInfo['data'];
}

export interface DataModel {
  readonly directory: ModelDirectory;
  readonly backbone: Backbone;
  readonly linear: readonly LinearModule[];
}

/** data.maxLength where neither the run file nor a shorter model says otherwise. */
const defaultMaxLength = 128;

/** Reads tokenizer and data of a configuration. `splits` leaves out what an evaluation does not need. */
export async function loadRunData(config: RunConfig, model: DataModel): Promise<RunData> {
  requireTrainableHead(model.directory);
  if (model.backbone.seq2seq && ['text', 'chat'].includes(config.data.task)) throw needsPrompt(config);
  const tokenizer = await loadTokenizer(model.directory.folder);
  const contextLength = contextOf(model.directory.config);
  const maxLength = config.data.maxLength ?? Math.min(defaultMaxLength, contextLength ?? defaultMaxLength);
  if (contextLength !== undefined && maxLength > contextLength)
    throw new AloraError('config', 'CONFIG_MAX_LENGTH', "data.maxLength passes the model's longest input", {
      where: 'data.maxLength',
      got: maxLength,
      allowed: `at most ${contextLength} tokens (config.json)`,
      fix: `Set data.maxLength to ${contextLength} or less.`,
    });
  const { head, fresh } = await headOf(config, model.backbone);
  requireTaskOfHead(config, model.backbone);
  const { data, train } = config;
  requireHearing(config, model.backbone);
  const speech = hears(model.backbone) ? speechOf(model.directory.folder, model.backbone) : undefined;
  const loaded = await loadData({ ...data, maxLength, tokenizer, head, speech, seed: train.seed });
  if (loaded.task.kind === 'sequence' && model.backbone.kind === 'causal') throw notAClassifier(config);
  if (loaded.task.kind === 'token' && model.backbone.kind !== 'causal')
    throw notADecoder(config, model.backbone);
  const examples = (split: Split | undefined) => split?.examples ?? [];
  const foreign = requireOwnTokenizer(
    tokenizer,
    model.directory,
    [loaded.train, loaded.dev, loaded.test].flatMap(examples),
  );
  return {
    tokenizer,
    task: loaded.task,
    train: examples(loaded.train),
    dev: examples(loaded.dev),
    test: examples(loaded.test),
    padId: Number(model.directory.config.pad_token_id ?? tokenizer.padId),
    classes: fresh ? head!.size : undefined,
    classNames: Object.values(head?.id2label ?? {}),
    contextLength,
    maxLength,
    warnings:
      config.data.maxLength === undefined && maxLength < defaultMaxLength
        ? [...foreign, ...loaded.warnings, `data.maxLength is ${maxLength}: the model reads no more tokens`]
        : [...foreign, ...loaded.warnings],
    splits: { train: loaded.train, dev: loaded.dev, test: loaded.test },
    hash: loaded.hash,
    info: {
      ...(loaded.train ? { train: splitInfo(loaded.train) } : {}),
      ...(loaded.dev ? { dev: splitInfo(loaded.dev) } : {}),
      ...(loaded.test ? { test: splitInfo(loaded.test) } : {}),
    },
  };
}

/**
 * Refuses tokens that the model has no embedding for (TOKENIZER_OTHER_MODEL), and warns where the tokenizer is much
 * smaller than the vocabulary; models pad theirs by a few rows.
 */
function requireOwnTokenizer(
  tokenizer: Tokenizer,
  { folder, config }: ModelDirectory,
  examples: readonly Example[],
): string[] {
  const size = config.vocab_size;
  if (typeof size !== 'number') return [];
  const outside = examples.find(({ ids }) => ids.some((id) => id >= size))?.ids.find((id) => id >= size);
  if (outside !== undefined)
    throw new AloraError('model', 'TOKENIZER_OTHER_MODEL', 'The tokenizer belongs to another model', {
      where: folder,
      got: `token ${outside}`,
      allowed: `tokens below ${size} (vocab_size of config.json)`,
      fix: "Put the model's own tokenizer.json and config.json beside it.",
    });
  return tokenizer.vocabSize < 0.9 * size
    ? [`tokenizer.json has ${tokenizer.vocabSize} tokens, the model ${size}: it may belong to another model`]
    : [];
}

function splitInfo(split: Split): SplitInfo {
  return {
    rows: split.examples.length,
    dropped: split.dropped.reduce((sum, { count }) => sum + count, 0),
    tokens: split.examples.reduce((sum, { ids }) => sum + ids.length, 0),
    labels: split.examples.reduce((sum, { targets }) => sum + targets.filter((t) => t >= 0).length, 0),
  };
}

/** config.json's limit on positions, under the names that architectures use. */
export function contextOf(config: Readonly<Record<string, unknown>>): number | undefined {
  for (const key of [
    'max_position_embeddings',
    'n_positions',
    'n_ctx',
    'max_seq_len',
    'seq_length',
    'max_target_positions',
  ])
    if (typeof config[key] === 'number') {
      // RoBERTa counts positions from pad_token_id + 1.
      const offset = /roberta|xlm-r|camembert|mpnet/.test(String(config.model_type)) ? 2 : 0;
      return (config[key] as number) - offset;
    }
  return undefined;
}

/** The head of the file, or, for a bare encoder, the task's, whose classes come from the task, data.labels or the training rows. */
async function headOf(
  config: RunConfig,
  backbone: Backbone,
): Promise<{ head: ModelHead | undefined; fresh: boolean }> {
  const { kind } = backbone;
  if (kind === 'causal') return { head: undefined, fresh: false };
  if (kind === 'span') return { head: { kind, size: 2 }, fresh: false };
  const id2label = backbone.config.id2label as Record<string, string> | undefined;
  if (kind === 'sequence' || kind === 'tag') {
    const logits = backbone.model.graph.findOutput(backbone.output);
    const size = logits?.shape?.at(-1);
    const known = typeof size === 'number' ? size : Object.keys(id2label ?? {}).length;
    return { head: { kind, size: known, id2label }, fresh: false };
  }
  const task = findTask(config.data.task);
  const names = task.labels ?? config.data.labels ?? (await labelsOf(config, task));
  return {
    head: {
      kind: task.head,
      size: names.length,
      id2label: Object.fromEntries(names.map((name, i) => [String(i), name])),
    },
    fresh: true,
  };
}

/** Distinct labels of the training rows: names in alphabetical order, or 0 .. the largest integer. */
async function labelsOf(config: RunConfig, task: Task): Promise<string[]> {
  const { paths } = await resolveDataFiles(config.data.train);
  const names = new Set<string>();
  let largest = -1;
  for await (const row of readRows(paths, config.data.columns))
    for (const label of task.head === 'tag' ? listField(row, 'tags') : [row.fields.label]) {
      if (typeof label === 'number' || /^\d+$/.test(String(label)))
        largest = Math.max(largest, Number(label));
      else if (typeof label === 'string') names.add(label);
    }
  return names.size > 0 ? [...names].sort() : Array.from({ length: largest + 1 }, (_, i) => `LABEL_${i}`);
}

/** Refuses a task that asks for something else than the model's head predicts, before any row is read. */
function requireTaskOfHead({ data }: RunConfig, { kind, output }: Backbone): void {
  if (kind === 'encoder' && findTask(data.task).head === 'span')
    throw new AloraError(
      'config',
      'TASK_MODEL',
      'The task needs a model that finds spans, or one that writes',
      {
        where: 'data.task',
        got: `${data.task}, on a model that gives ${output}`,
        allowed: 'a model with start_logits and end_logits, or a decoder',
        fix: 'Export the encoder with its head for question answering (task question-answering).',
      },
    );
  if ((kind !== 'tag' && kind !== 'span') || findTask(data.task).head === kind) return;
  throw new AloraError(
    'config',
    'TASK_MODEL',
    "The task asks for something else than the model's head predicts",
    {
      where: 'data.task',
      got: `${data.task}, on a model that predicts ${kind === 'tag' ? 'a class for every token' : 'the two ends of a span'}`,
      allowed: Object.values(tasks).flatMap(({ name, head }) => (head === kind ? [name] : [])),
      fix: 'Use a task of that head, or export the encoder alone (last_hidden_state).',
    },
  );
}

/** Sound goes with the tasks that read it, and with models that do. */
function requireHearing({ data }: RunConfig, backbone: Backbone): void {
  const sound = hears(backbone);
  if (sound === (findTask(data.task).hears ?? false)) return;
  throw new AloraError(
    'config',
    'TASK_MODEL',
    sound
      ? 'The model reads sound, and the task has none'
      : 'The task has sound, which the model does not read',
    {
      where: 'data.task',
      got: data.task,
      allowed: sound ? ['transcription'] : 'a model such as Whisper',
      fix: sound
        ? 'Use task transcription.'
        : 'Use an export of Whisper: encoder_model.onnx and decoder_model.onnx.',
    },
  );
}

function notAClassifier(config: RunConfig): AloraError {
  return new AloraError('config', 'TASK_MODEL', 'The task predicts classes, but the model writes text', {
    where: 'data.task',
    got: config.data.task,
    fix: 'Use task text, prompt or chat; or give data.labels for classification.',
  });
}

function needsPrompt(config: RunConfig): AloraError {
  return new AloraError(
    'config',
    'TASK_MODEL',
    'An encoder-decoder answers a prompt, and the task has none',
    {
      where: 'data.task',
      got: config.data.task,
      allowed: 'prompt, or a named task',
      fix: 'Use task prompt: the encoder reads the prompt, the decoder learns the completion.',
    },
  );
}

function notADecoder(config: RunConfig, backbone: Backbone): AloraError {
  return new AloraError('config', 'TASK_MODEL', 'The task trains text, but the model does not write text', {
    where: 'data.task',
    got: `${config.data.task}, on a model that gives ${backbone.output}`,
    allowed: 'classification',
    fix: 'Use task classification, or a decoder such as GPT-2 or Llama.',
  });
}
