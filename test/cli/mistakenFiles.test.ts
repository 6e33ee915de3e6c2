import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { builtCli, run } from './builtCli.ts';
import { expectRefusal, put, type Refusal } from './refusals.ts';

const dir = mkdtempSync(join(tmpdir(), 'mistaken-files-'));
afterAll(() => rmSync(dir, { recursive: true }));

const llama = resolve('fixtures/models/llama');

/** The model's file with a NaN in the first value of its embedding. */
function withNaN(): Uint8Array {
  const model = Uint8Array.from(readFileSync(join(llama, 'onnx/model.onnx')));
  const tensors = readFileSync(join(llama, 'model.safetensors'));
  const length = Number(tensors.readBigUInt64LE(0));
  const header = JSON.parse(tensors.toString('utf8', 8, 8 + length));
  const [begin] = header['model.embed_tokens.weight'].data_offsets;
  const at = Buffer.from(model).indexOf(tensors.subarray(8 + length + begin, 8 + length + begin + 32));
  expect(at).toBeGreaterThan(0);
  // Row 0 may be a token that no row has: the whole matrix of 128 x 32 goes.
  for (let i = 0; i < 128 * 32; i++) new DataView(model.buffer).setFloat32(at + 4 * i, Number.NaN, true);
  return model;
}

beforeAll(async () => {
  await builtCli();
  for (const name of ['zipped', 'gzipped', 'page', 'empty', 'null', 'list', 'foreign', 'nan'])
    cpSync(llama, join(dir, name), { recursive: true, filter: (path) => !/safetensors|fp16/.test(path) });
  put(dir, 'zipped/onnx/model.onnx', Buffer.from('PK\x03\x04\x14\x00', 'latin1'));
  put(dir, 'gzipped/onnx/model.onnx', gzipSync('a model'));
  put(dir, 'page/onnx/model.onnx', '<!DOCTYPE html><title>Sign in</title>');
  put(dir, 'empty/onnx/model.onnx', '');
  put(dir, 'null/config.json', 'null');
  put(dir, 'list/generation_config.json', '[1]');
  cpSync(resolve('fixtures/models/presidents/tokenizer.json'), join(dir, 'foreign/tokenizer.json'));
  put(dir, 'nan/onnx/model.onnx', withNaN());
  const phi3 = join(dir, 'phi3');
  cpSync(resolve('fixtures/models/phi3'), phi3, {
    recursive: true,
    filter: (p) => !p.includes('safetensors'),
  });
  rmSync(join(phi3, 'onnx/model.onnx_data'));
  mkdirSync(join(phi3, 'onnx/model.onnx_data'));
  put(dir, 'rows.jsonl', '{"text": "the quick brown fox jumps"}\n'.repeat(8));
  put(
    dir,
    'run.yaml',
    `model: {path: zipped}
data: {maxLength: 16, train: rows.jsonl, dev: rows.jsonl}
train: {steps: 2, batchSize: 4, warmup: 0, sample: false}
runtime: {threads: 1}
output: out
`,
  );
});

const refusals: readonly Refusal[] = [
  ['a ZIP archive for a model', 'train run.yaml', 5, 'MODEL_UNREADABLE', 'a ZIP archive'],
  ['a gzip archive for a model', 'inspect gzipped', 5, 'MODEL_UNREADABLE', 'a gzip archive'],
  ['a page of HTML for a model', 'inspect page', 5, 'MODEL_UNREADABLE', 'HTML'],
  ['an empty file for a model', 'inspect empty', 5, 'MODEL_UNREADABLE', 'an empty file'],
  ['a config.json of null', 'inspect null', 5, 'MODEL_CONFIG_BROKEN', 'config.json'],
  [
    'a generation_config.json of a list',
    'generate --model list --prompt hi',
    5,
    'MODEL_CONFIG_BROKEN',
    'generation_config.json',
  ],
  ['a folder for external data', 'inspect phi3', 5, 'MODEL_EXTERNAL_MISSING', 'model.onnx_data'],
  [
    'a tokenizer with more tokens than the model',
    'train run.yaml --set model.path=foreign',
    5,
    'TOKENIZER_OTHER_MODEL',
    'tokenizer.json',
  ],
  [
    'a model of NaN',
    'train run.yaml --set model.path=nan --set output=out-nan',
    5,
    'MODEL_NOT_FINITE',
    'NaN',
  ],
  [
    'an adapter of another model',
    `eval run.yaml --set model.path=list --adapter ${resolve('fixtures/peft/adapters/gpt2-lora')}`,
    5,
    'ADAPTER_MISMATCH',
    'gpt2-lora',
  ],
  ['to score a model of NaN', 'eval run.yaml --set model.path=nan', 5, 'MODEL_NOT_FINITE', 'nan'],
  [
    'a whole number that is too large',
    'train run.yaml --set budget.parameters=1e12',
    3,
    'CONFIG_VALUE',
    'at most',
  ],
  ['a number that is none', 'train run.yaml --set budget.rank=.nan', 3, 'CONFIG_VALUE', 'cannot be NaN'],
];

describe.concurrent('the built command line refuses', () => {
  it.each(refusals)('%s: %s', (...refusal) => expectRefusal(dir, refusal));

  // Node's recursive mkdir never returns there.
  it('an output that no folder can be made in', () =>
    expectRefusal(dir, [
      '',
      'train run.yaml --set model.path=phi3/../list --set output=/proc/out',
      7,
      'STORAGE_WRITE',
      '/proc/out',
    ]));

  it('a temporary folder that is not there', async () => {
    const args = ['train', 'run.yaml', '--set', 'model.path=list'];
    const none = join(dir, 'none');
    const outcome = await run(dir, args, { TMPDIR: none, TEMP: none, TMP: none });
    expect(outcome.code).toBe(7);
    expect(outcome.stderr).toMatch(/^error\[STORAGE_TEMPORARY\]: [\s\S]*fix: Set TMPDIR/);
  });
});

describe('the built command line', () => {
  it('leaves no output folder behind', () => {
    expect(readdirSync(dir).filter((name) => name.startsWith('out'))).toEqual([]);
  });
});
