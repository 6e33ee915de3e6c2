import { z } from 'zod';

/**
 * The run file: one schema for YAML, TypeScript, the JSON Schema of `onnx-alora schema` and docs/run-file.md.
 * Descriptions are one line each; the resolver adds what depends on several keys at once.
 */

const path = () => z.string().min(1);
const count = () =>
  z
    .int()
    .min(1)
    .max(2 ** 31);

const model = z.strictObject({
  path: path().describe(
    'Model directory in Hugging Face / transformers.js layout, an .onnx file, or a hub id (needs network).',
  ),
  file: path()
    .optional()
    .describe('ONNX file inside the directory; without it, the best match in the directory.'),
  targets: z
    .union([z.literal('all-linear'), z.array(z.string().min(1)).min(1)])
    .default('all-linear')
    .describe(
      'Adapted modules: all-linear (every linear layer except output embedding and heads), or a list of name endings and regular expressions, each of which must match.',
    ),
  splitFused: z
    .boolean()
    .default(false)
    .describe(
      'Makes query, key and value of a fused projection modules of their own, q_proj, k_proj and v_proj beside it (and gate_proj and up_proj of gate_up_proj).',
    ),
  pooling: z
    .enum(['cls', 'mean', 'sentence_embedding'])
    .optional()
    .describe('How a new classifier reads an encoder without a head; without it, what the file offers.'),
  compute: z
    .enum(['float32', 'int8'])
    .default('float32')
    .describe(
      'How products with frozen weights are computed: int8 rounds weights and activations to 8 bits, on CPU.',
    ),
});

const split = (which: string) =>
  z
    .union([path(), z.number().gt(0).lt(1)])
    .optional()
    .describe(`${which} rows: a file like train, or a share of train (0.05), split off with the seed.`);

const data = z.strictObject({
  task: z
    .string()
    .min(1)
    .default('text')
    .describe(
      'What a row is and what is trained: text, prompt, chat, classification, token-classification, qa-span, transcription, or a named task.',
    ),
  train: path().describe(
    'Training rows: .jsonl .json .csv .tsv .parquet, or documents: a .txt file, a directory or a glob.',
  ),
  dev: split('Development'),
  test: split('Test'),
  columns: z
    .record(z.string(), z.string().min(1))
    .optional()
    .describe("Renames columns: the task's field to the file's column, as in {text: sentence}."),
  labels: z
    .array(z.string().min(1))
    .min(2)
    .optional()
    .describe(
      'Label words of a classification task on a decoder, or names of the classes of a head, in the order of the labels.',
    ),
  maxLength: z
    .int()
    .min(2)
    .max(1_000_000)
    .optional()
    .describe("Tokens of a row at most; without it 128, or the model's longest input where that is shorter."),
  shuffle: z
    .boolean()
    .default(true)
    .describe('Draws a new row order each epoch; false keeps the order of the file.'),
  maxRows: z
    .strictObject({
      train: count().optional().describe('Rows of train at most.'),
      dev: count().optional().describe('Rows of dev at most.'),
      test: count().optional().describe('Rows of test at most.'),
    })
    .optional()
    .describe('Reads only so many rows of a split, from its beginning.'),
});

const adapter = z.strictObject({
  strategy: z
    .string()
    .min(1)
    .default('lora')
    .describe('How ranks are given out: lora, adalora, sora, alora, or the module path of a third party.'),
  alpha: z
    .number()
    .gt(0)
    .optional()
    .describe('Scale s = alpha / budget.rank of every module, fixed for the run; without it, s = 1.'),
  dropout: z.number().min(0).lt(1).default(0).describe('Dropout on the input of every adapter.'),
  initFrom: path()
    .optional()
    .describe('Starts from an adapter in PEFT format (LORA or ADALORA); ranks and scale come from it.'),
  modulesToSave: z
    .array(z.string().min(1))
    .default([])
    .describe(
      'Modules trained fully and saved as PEFT does, such as a classifier; the budget does not pay for them.',
    ),
});

const budget = z.strictObject({
  rank: count()
    .optional()
    .describe('The budget is what LoRA of this rank on every module would cost; 8 where nothing is given.'),
  parameters: count().optional().describe('The budget in trained scalars, instead of rank.'),
  at: z
    .enum(['final', 'peak', 'average'])
    .default('final')
    .describe('Which count must meet the budget; all three are always reported.'),
});

const train = z.strictObject({
  epochs: z
    .number()
    .gt(0)
    .max(1e6)
    .optional()
    .describe('Passes over the training rows; 3 where nothing is given.'),
  steps: count().optional().describe('Optimizer steps, instead of epochs.'),
  batchSize: count().default(16).describe('Rows of a batch.'),
  accumulate: count()
    .default(1)
    .describe('Batches of an optimizer step; the loss is normalised over all of their trained tokens.'),
  learningRate: z.number().gt(0).default(1e-4).describe('Peak learning rate of AdamW.'),
  schedule: z
    .enum(['linear', 'cosine', 'constant'])
    .default('linear')
    .describe('How the rate falls after warm-up: to zero on a line, to zero on a cosine, or not at all.'),
  warmup: z
    .number()
    .min(0)
    .default(0.06)
    .describe('Warm-up from rate zero: a share of the steps if below 1, otherwise steps.'),
  weightDecay: z.number().min(0).default(0).describe('Decoupled weight decay of AdamW.'),
  clip: z.number().min(0).default(1).describe('Largest global gradient norm; 0 turns clipping off.'),
  evalEvery: z
    .int()
    .min(0)
    .default(200)
    .describe(
      'Steps between evaluations on dev; step 0 and the last step are always evaluated; 0: only those.',
    ),
  patience: z
    .int()
    .min(0)
    .default(10)
    .describe('Evaluations without improvement after which the run stops early; 0: never.'),
  seed: z.int().min(0).default(0).describe('Seed of initial values, row order, dropout and splits.'),
  recompute: z
    .boolean()
    .default(false)
    .describe(
      'Less memory for time: keep activations only at the borders between segments of the model, and compute the rest again for the gradients.',
    ),
  checkpointEvery: z
    .int()
    .min(0)
    .default(200)
    .describe('Steps between checkpoints; 0: only on interruption.'),
  sample: z
    .union([z.literal(false), z.string()])
    .optional()
    .describe(
      'Prompt of the sample generated before and after; without it, from the first dev row; false: none.',
    ),
  generated: z
    .boolean()
    .default(true)
    .describe(
      'Where the task scores generated answers: the best adapter answers the prompts of test after the last step; false: only `eval` does.',
    ),
});

const runtime = z.strictObject({
  device: z.enum(['cpu', 'cuda', 'webgpu']).default('cpu').describe('Execution provider of ONNX Runtime.'),
  threads: z
    .int()
    .min(0)
    .max(1024)
    .default(0)
    .describe('Threads of ONNX Runtime; 0: one per core; with 1 a run is bit-reproducible.'),
});

/** The run file without the strategies' own options, which stand beside the common keys of `adapter`. */
export const runFile = z.strictObject({
  model: model.describe('The frozen model.'),
  data: data.describe('The rows.'),
  adapter: adapter.prefault({}).describe('The adapter; the options of the strategy stand beside these keys.'),
  budget: budget.prefault({}).describe('What the adapter may cost: either rank or parameters.'),
  train: train.prefault({}).describe('The optimisation: either epochs or steps.'),
  runtime: runtime.prefault({}).describe('Where it runs.'),
  output: path()
    .optional()
    .describe('Run folder, refused if it holds anything; without it, runs/ and the name of the run file.'),
});

/** The keys of `adapter` that belong to every strategy. */
export const adapterKeys: readonly string[] = Object.keys(adapter.shape);

/** Keys that hold paths: relative to the file that names them. */
export const pathKeys = [
  'model.path',
  'data.train',
  'data.dev',
  'data.test',
  'adapter.initFrom',
  'output',
] as const;

/** Pairs of which a run file gives one at most. */
export const exclusiveKeys = [
  ['budget.rank', 'budget.parameters'],
  ['train.epochs', 'train.steps'],
] as const;

type Resolved = z.output<typeof runFile>;
type Input = z.input<typeof runFile>;

/** A run file as a user writes it. */
export type RunConfigInput = Omit<Input, 'adapter'> & {
  adapter?: Input['adapter'] & { readonly [option: string]: unknown };
};

/**
 * A resolved run file: every default filled in, every path absolute (a hub id stays as it is), the options
 * of the strategy validated by the strategy. Resolving it again changes nothing.
 */
export type RunConfig = Omit<Resolved, 'adapter' | 'output'> & {
  adapter: Resolved['adapter'] & { [option: string]: unknown };
  output: string;
};

/** The strategy's own options of a resolved `adapter` section. */
export function strategyOptions(adapterSection: RunConfig['adapter']): Record<string, unknown> {
  return Object.fromEntries(Object.entries(adapterSection).filter(([key]) => !adapterKeys.includes(key)));
}
