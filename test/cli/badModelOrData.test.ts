import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { builtCli, run } from './builtCli.ts';
import { expectRefusal, put, type Refusal } from './refusals.ts';

const dir = mkdtempSync(join(tmpdir(), 'bad-model-or-data-'));
afterAll(() => rmSync(dir, { recursive: true }));

const rows = (count: number, row: (i: number) => object): string =>
  Array.from({ length: count }, (_, i) => `${JSON.stringify(row(i))}\n`).join('');

const runFile = (data: string): string => `model: {path: model}
data: {maxLength: 32, ${data}}
train: {steps: 2, batchSize: 4, warmup: 0}
runtime: {threads: 1}
output: out
`;

beforeAll(async () => {
  await builtCli();
  const model = resolve('fixtures/models/llama');
  for (const name of ['model', 'garbage', 'cut', 'untokenized', 'foreign'])
    cpSync(model, join(dir, name), { recursive: true, filter: (path) => !/safetensors|fp16/.test(path) });
  cpSync(resolve('fixtures/models/presidents/tokenizer.json'), join(dir, 'foreign/tokenizer.json'));
  const config = JSON.parse(readFileSync(join(model, 'config.json'), 'utf8'));
  put(dir, 'foreign/config.json', JSON.stringify({ ...config, vocab_size: 1536 }));
  put(dir, 'garbage/onnx/model.onnx', 'version https://git-lfs.github.com/spec/v1\n');
  put(dir, 'cut/onnx/model.onnx', readFileSync(join(model, 'onnx/model.onnx')).subarray(0, 50_000));
  cpSync(resolve('fixtures/peft/adapters/llama-lora'), join(dir, 'whole'), { recursive: true });
  cpSync(resolve('fixtures/models/bert'), join(dir, 'classifier'), { recursive: true });
  rmSync(join(dir, 'untokenized/tokenizer.json'));
  mkdirSync(join(dir, 'hollow'));
  put(dir, 'taken/notes.txt', 'mine');
  put(dir, 'broken/adapter_config.json', '{"peft_type": "LORA", "r": 8}');
  put(dir, 'broken/adapter_model.safetensors', 'cut off');
  put(
    dir,
    'rows.jsonl',
    rows(8, (i) => ({ text: `the ${i}th row` })),
  );
  put(dir, 'broken.jsonl', '{"text": "fine"}\n{"text": "cut\n');
  put(dir, 'columns.jsonl', '{"sentence": "fine"}\n');
  put(dir, 'empty.jsonl', '');
  put(dir, 'rows.docx', 'PK');
  put(
    dir,
    'unlearnable.jsonl',
    rows(8, (i) => ({ prompt: `row ${i}`, completion: '' })),
  );
  put(dir, 'run.yaml', runFile('train: rows.jsonl'));
  put(dir, 'lost.yaml', runFile('train: rows.jsonl').replace('path: model', 'path: ./none'));
  put(dir, 'prompt.yaml', runFile('train: unlearnable.jsonl, task: prompt'));
  put(dir, 'classes.yaml', runFile('train: rows.jsonl, task: classification'));
});

const refusals: readonly Refusal[] = [
  [
    'no such model',
    'train run.yaml --set model.path=./none',
    5,
    'MODEL_NOT_FOUND',
    'where: --set model.path=./none\n',
  ],
  ['no such model in the run file', 'train lost.yaml', 5, 'MODEL_NOT_FOUND', 'lost.yaml:1:15 (model.path)\n'],
  [
    'no such model to generate with',
    'generate --model none --prompt hi',
    5,
    'MODEL_NOT_FOUND',
    'where: --model\n  got: none\n',
  ],
  [
    'no such file to generate with',
    'generate --model model --file nodel.onnx --prompt hi',
    5,
    'MODEL_FILE_NOT_FOUND',
    'leave --file out',
  ],
  ['no such model to merge with', 'merge whole --model none --out merged', 5, 'MODEL_NOT_FOUND', '--model\n'],
  ['no such model to inspect', 'inspect none', 5, 'MODEL_NOT_FOUND', 'where: <model>\n  got: none\n'],
  ['a folder without a model', 'train run.yaml --set model.path=hollow', 5, 'MODEL_FILE_NOT_FOUND', 'hollow'],
  [
    'a Git LFS pointer for a model',
    'train run.yaml --set model.path=garbage',
    5,
    'MODEL_UNREADABLE',
    'model.onnx',
  ],
  ['a cut download', 'train run.yaml --set model.path=cut', 5, 'MODEL_UNREADABLE', 'model.onnx'],
  ['no tokenizer', 'data run.yaml --set model.path=untokenized', 5, 'TOKENIZER_MISSING', 'tokenizer.json'],
  [
    'tokenizer and configuration of another model, which only ONNX Runtime notices',
    'train run.yaml --set model.path=foreign',
    5,
    'MODEL_RUN',
    'tokenizer.json',
  ],
  ['no such rows', 'train run.yaml --set data.train=none.jsonl', 4, 'DATA_FILE_MISSING', 'none.jsonl'],
  ['a broken row', 'train run.yaml --set data.train=broken.jsonl', 4, 'DATA_BAD_ROW', 'broken.jsonl:2'],
  [
    'a missing column',
    'data run.yaml --set data.train=columns.jsonl',
    4,
    'DATA_MISSING_FIELD',
    'data.columns',
  ],
  ['no rows', 'train run.yaml --set data.train=empty.jsonl', 4, 'DATA_EMPTY', 'empty.jsonl'],
  ['an unknown format', 'train run.yaml --set data.train=rows.docx', 4, 'DATA_FORMAT_UNKNOWN', '.docx'],
  ['rows of which nothing is trained', 'train prompt.yaml', 4, 'DATA_NOTHING_TRAINED', 'unlearnable.jsonl'],
  ['rows longer than the model', 'train run.yaml --set data.maxLength=4096', 3, 'CONFIG_MAX_LENGTH', '64'],
  ['a split that is not there', 'eval run.yaml --split test', 3, 'SPLIT_MISSING', 'data.test'],
  [
    'targets that match nothing',
    'train run.yaml --set model.targets=[q_prj]',
    3,
    'CONFIG_TARGET_UNMATCHED',
    'did you mean: q_proj',
  ],
  [
    'a budget below one rank',
    'train run.yaml --set budget.parameters=3',
    3,
    'BUDGET_UNREACHABLE',
    'budget.parameters',
  ],
  ['classes without label words', 'train classes.yaml', 3, 'LABELS_MISSING', 'data.labels'],
  [
    'an output folder that holds something',
    'train run.yaml --set output=taken',
    7,
    'OUTPUT_EXISTS',
    '--force',
  ],
  ['an output below a file', 'train run.yaml --set output=rows.jsonl/out', 7, 'STORAGE_WRITE', 'rows.jsonl'],
  ['no such adapter', 'eval run.yaml --split train --adapter none', 5, 'MODEL_ADAPTER_NOT_FOUND', 'none'],
  [
    'a damaged adapter',
    'eval run.yaml --split train --adapter broken',
    5,
    'MODEL_SAFETENSORS',
    'adapter_model.safetensors',
  ],
  [
    'a start from a damaged adapter',
    'train run.yaml --set adapter.initFrom=broken',
    5,
    'MODEL_SAFETENSORS',
    'broken',
  ],
  [
    'generating with a classifier',
    'generate --model classifier --prompt hi',
    5,
    'MODEL_NOT_DECODER',
    'logits',
  ],
  [
    'merging into a folder that is there',
    'merge whole --model model --out taken',
    7,
    'OUTPUT_EXISTS',
    'taken',
  ],
  [
    'merging with another model',
    'merge whole --model classifier --out merged',
    5,
    'MODEL_MERGE_NO_PLACE',
    'down_proj',
  ],
  ['graphs into a folder that holds something', 'graph run.yaml --out taken', 7, 'OUTPUT_EXISTS', '--out'],
  ['inspecting what is not a model', 'inspect rows.jsonl', 5, 'MODEL_NOT_ONNX', 'rows.jsonl'],
  ['a report of no run', 'report hollow', 3, 'REPORT_NOT_A_RUN', 'hollow'],
];

describe.concurrent('the built command line refuses', () => {
  it.each(refusals)('%s: %s', (...refusal) => expectRefusal(dir, refusal));
});

describe('the built command line', () => {
  it('leaves no output folder behind when nothing was trained', () => {
    expect(readdirSync(dir).filter((name) => name.startsWith('out'))).toEqual([]);
  });

  it('ends with 6 when training diverges', async () => {
    const outcome = await run(
      dir,
      'train run.yaml --set output=diverged --set train.learningRate=1e30 --set train.clip=0 --set train.steps=9'.split(
        ' ',
      ),
    );
    expect(outcome.stderr).toMatch(/^error\[TRAIN_DIVERGED\]: [\s\S]*fix: /);
    expect(outcome.code).toBe(6);
  });
});
