import { type DateExample, dateExamples } from './dates.ts';

/** A start for `init`: what the run file says, and rows that make it work as it stands. */
export interface Template {
  readonly name: string;
  readonly title: string;
  /** Rows by file name, written into `data/` beside the run file. */
  files(): Readonly<Record<string, string>>;
  /** The run file; `model` is the path of the embedded model as the file has to write it. */
  runFile(model: string, output: string): string;
}

const splits = { train: [2000, 0], dev: [200, 1], test: [200, 2] } as const;

/** The three splits of a generated task, rows by `row`. */
function generated(prefix: string, row: (example: DateExample) => object): Record<string, string> {
  return Object.fromEntries(
    Object.entries(splits).map(([split, [count, seed]]) => [
      `${prefix}-${split}.jsonl`,
      dateExamples(count, seed)
        .map((example) => `${JSON.stringify(row(example))}\n`)
        .join(''),
    ]),
  );
}

const seasons = ['winter', 'spring', 'summer', 'autumn'];
const seasonOf = (completion: string): string =>
  seasons[Math.floor((Number(completion.slice(6, 8)) % 12) / 3)]!;

const modelSection = (model: string): string => `model:
  # a directory with an ONNX model and its tokenizer, or an .onnx file
  path: ${model}
  targets: all-linear       # or name endings: [q_proj, v_proj]; \`npx onnx-alora inspect\` lists the modules
`;

const dataSection = (task: string, prefix: string, maxLength: number): string => `data:
  task: ${task}
  train: data/${prefix}-train.jsonl
  dev: data/${prefix}-dev.jsonl
  test: data/${prefix}-test.jsonl
  maxLength: ${maxLength}             # tokens of a row at most; \`npx onnx-alora data\` shows the lengths
`;

const restSections = (output: string, learningRate: string, epochs: number): string => `budget:
  rank: 8                   # what uniform LoRA of this rank costs; or parameters: 100000
  at: final                 # final | peak | average: which count must meet the budget

train:
  epochs: ${epochs}                 # or steps
  batchSize: 16
  learningRate: ${learningRate}
  schedule: linear          # linear | cosine | constant
  warmup: 0.06              # share of the steps
  evalEvery: 50             # steps; step 0 and the last step are always evaluated
  patience: 10              # evaluations without improvement; 0: never stop early
  seed: 0

runtime:
  device: cpu               # cpu | cuda | webgpu
  threads: 0                # 0: one per core; 1: bit-reproducible

output: ${output}
`;

const header = (title: string): string => `# ${title}
# \`npx onnx-alora schema --markdown\` describes every key.
#   npx onnx-alora data <this file>     shows what is trained
#   npx onnx-alora train <this file>    trains; --set train.epochs=1 overrides a key
`;

const lora = `adapter:
  strategy: lora            # lora | adalora | sora | alora
  # alpha: 16               # scale s = alpha / rank; without it s = 1
  dropout: 0
`;

const alora = `adapter:
  strategy: alora           # lora | adalora | sora | alora
  # rounds: 8               # rounds of pruning and growing; fewer and closer in a short run
  # ranksPerRound: perModel # ranks that move in a round; or a number, or perBlock
  # examples: 32            # rows of dev that score the ranks
  scorer: screened          # exact | screened | taylor | sensitivity | dnas
  # alpha: 16               # scale s = alpha / rank; without it s = 1
  dropout: 0
`;

const dates = (strategy: string, title: string, adapter: string): Template => ({
  name: strategy === 'lora' ? 'dates' : strategy,
  title,
  files: () => generated('dates', ({ prompt, completion }) => ({ prompt, completion })),
  runFile: (model, output) =>
    [
      header(title),
      modelSection(model),
      dataSection('prompt', 'dates', 64),
      adapter,
      restSections(output, '5e-3', 3),
    ].join('\n'),
});

/** The starts that `init --template` offers; the first is the default. */
export const templates: readonly Template[] = [
  dates('lora', 'Date normalisation: "the 3rd of March, 2024:" -> "2024-03-03", with LoRA', lora),
  dates('alora', 'The same with ALoRA: ranks that do not help move to where they do', alora),
  {
    name: 'text',
    title: 'Continuing a text: plain language modelling on every token',
    files: () => generated('text', ({ prompt, completion }) => ({ text: `${prompt}${completion}` })),
    runFile: (model, output) =>
      [
        header('Plain language modelling: every token is trained'),
        modelSection(model),
        dataSection('text', 'text', 64),
        lora,
        restSections(output, '5e-3', 3),
      ].join('\n'),
  },
  {
    name: 'classification',
    title: 'Classification with label words on a decoder: the season of a date',
    files: () =>
      generated('seasons', ({ prompt, completion }) => ({ text: prompt, label: seasonOf(completion) })),
    runFile: (model, output) =>
      [
        header('Classification with label words on a decoder: the season of a date'),
        modelSection(model),
        `${dataSection('classification', 'seasons', 64)}  labels: [${seasons.join(', ')}]\n`,
        lora,
        restSections(output, '5e-3', 3),
      ].join('\n'),
  },
];
