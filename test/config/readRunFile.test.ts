import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { readRunFile } from '../../src/config/read.ts';
import { strategyOptions } from '../../src/config/schema.ts';
import { configHash, stringifyRunConfig } from '../../src/config/write.ts';
import { AloraError } from '../../src/errors.ts';

const strategies = {
  lora: { name: 'lora', options: z.strictObject({}) },
  alora: {
    name: 'alora',
    options: z.strictObject({
      rounds: z.int().min(1).optional(),
      scorer: z.enum(['exact', 'taylor']).default('exact'),
    }),
  },
};
const tasks = ['text', 'prompt', 'chat', 'classification'];

const dir = mkdtempSync(join(tmpdir(), 'run-file-'));
afterAll(() => rmSync(dir, { recursive: true }));

let files = 0;
async function read(text: string, set: string[] = [], extension = 'yaml') {
  const file = join(dir, `case-${files++}.${extension}`);
  writeFileSync(file, text);
  const run = await readRunFile(file, { strategies, tasks, set });
  return { file, ...run };
}

async function refusal(text: string, set: string[] = []): Promise<AloraError & { place: string }> {
  const before = files;
  try {
    await read(text, set);
  } catch (error) {
    if (!(error instanceof AloraError)) throw error;
    const where = error.details.where ?? '';
    return Object.assign(error, { place: where.replace(join(dir, `case-${before}.yaml`), 'run.yaml') });
  }
  throw new Error('expected a refusal');
}

const minimal = 'model: {path: model}\ndata: {train: train.jsonl}\n';

describe('readRunFile', () => {
  it('fills in defaults and makes paths absolute from the folder of the file', async () => {
    const { config, file } = await read(minimal);
    expect(config.model).toEqual({
      path: join(dir, 'model'),
      targets: 'all-linear',
      splitFused: false,
      compute: 'float32',
    });
    expect(config.budget).toEqual({ rank: 8, at: 'final' });
    expect(config.train).toMatchObject({ epochs: 3, batchSize: 16, learningRate: 1e-4, seed: 0 });
    expect(config.adapter).toEqual({ strategy: 'lora', dropout: 0, modulesToSave: [] });
    expect(config.output).toBe(join(dir, 'runs', file.replace(/.*[/](.*)[.]yaml/, '$1')));
  });

  it('keeps a hub id, but takes a folder of that name first', async () => {
    const hub = 'model: {path: someone/tiny-gpt}\ndata: {train: t.txt}\n';
    expect((await read(hub)).config.model.path).toBe('someone/tiny-gpt');
    mkdirSync(join(dir, 'someone/tiny-gpt'), { recursive: true });
    expect((await read(hub)).config.model.path).toBe(join(dir, 'someone/tiny-gpt'));
  });

  it('reads JSON, and 1e-4 as a number', async () => {
    const json = '{"model": {"path": "m"}, "data": {"train": "t.txt"}, "train": {"learningRate": 1e-5}}';
    expect((await read(json, [], 'json')).config.train.learningRate).toBe(1e-5);
  });

  it('hands the strategy its own options, defaults included', async () => {
    const { config } = await read(`${minimal}adapter: {strategy: alora, rounds: 2}\n`);
    expect(strategyOptions(config.adapter)).toEqual({ rounds: 2, scorer: 'exact' });
  });

  it('gives no budget of its own to a run that starts from an adapter', async () => {
    const { config } = await read(`${minimal}adapter: {initFrom: old}\n`);
    expect(config.budget).toEqual({ at: 'final' });
  });

  it('treats a key left empty as not given', async () => {
    expect((await read(`${minimal}train:\n  epochs:\nadapter:\n`)).config.train.epochs).toBe(3);
  });

  it('writes what resolves to the same again', async () => {
    const { config } = await read(
      `${minimal}adapter: {strategy: alora, rounds: 2, alpha: 16}\ntrain: {steps: 5}\noutput: out\n`,
    );
    mkdirSync(join(dir, 'out'), { recursive: true });
    const text = stringifyRunConfig(config, join(dir, 'out'));
    expect(text).toMatch(/^ {2}strategy: alora$/m);
    expect(text).toMatch(/^ {2}seed: 0$/m);
    expect(text).not.toContain(dir);
    writeFileSync(join(dir, 'out/run.yaml'), text);
    const again = await readRunFile(join(dir, 'out/run.yaml'), { strategies, tasks });
    expect(again.config).toEqual(config);
    expect(configHash(again.config)).toBe(configHash(config));
  });

  it('hashes what decides the result, and neither folder nor threads', async () => {
    const { config } = await read(minimal);
    const moved = { ...config, output: '/elsewhere', runtime: { ...config.runtime, threads: 1 } };
    expect(configHash(moved)).toBe(configHash(config));
    expect(configHash({ ...config, train: { ...config.train, seed: 1 } })).not.toBe(configHash(config));
  });
});

describe('--set', () => {
  it('overrides, creates sections, parses YAML values', async () => {
    const { config } = await read(minimal, [
      'train.learningRate=3e-4',
      'model.targets=[q_proj, v_proj]',
      'data.columns.text=sentence',
      'adapter.strategy=alora',
      'adapter.rounds=3',
    ]);
    expect(config.train.learningRate).toBe(3e-4);
    expect(config.model.targets).toEqual(['q_proj', 'v_proj']);
    expect(config.data.columns).toEqual({ text: 'sentence' });
    expect(config.adapter).toMatchObject({ strategy: 'alora', rounds: 3 });
  });

  it('takes paths from the working directory', async () => {
    const missing = await refusal(minimal, ['adapter.strategy=./none.mjs']);
    expect(missing.details.got).toBe(join(process.cwd(), 'none.mjs'));
    expect((await read(minimal, ['data.train=x.jsonl'])).config.data.train).toBe(
      join(process.cwd(), 'x.jsonl'),
    );
  });

  it("displaces the file's other half of an exclusive pair", async () => {
    const { config } = await read(`${minimal}train: {epochs: 2}\nbudget: {rank: 4}\n`, [
      'train.steps=5',
      'budget.parameters=1000',
    ]);
    expect([config.train.steps, config.train.epochs]).toEqual([5, undefined]);
    expect(config.budget).toEqual({ parameters: 1000, at: 'final' });
  });

  it('refuses an unknown path with the nearest, a bad value at its flag, and a flag without a value', async () => {
    const unknown = await refusal(minimal, ['train.learningrate=1']);
    expect([unknown.code, unknown.place]).toEqual(['CONFIG_UNKNOWN_KEY', '--set train.learningrate=1']);
    expect(unknown.details.didYouMean).toBe('learningRate');
    const value = await refusal(minimal, ['train.batchSize=zero']);
    expect([value.code, value.place]).toEqual(['CONFIG_VALUE', '--set train.batchSize=zero']);
    const syntax = await refusal(minimal, ['train.batchSize']);
    expect([syntax.kind, syntax.code]).toEqual(['usage', 'SET_SYNTAX']);
  });
});

describe('refusals', () => {
  it.each([
    ['a key with a slip', `${minimal}train:\n  bachSize: 4\n`, 'CONFIG_UNKNOWN_KEY', 4, 3, 'batchSize'],
    ['a key in the wrong section', `${minimal}seed: 4\n`, 'CONFIG_UNKNOWN_KEY', 3, 1, 'train.seed'],
    ["another program's key", `${minimal}train: {lr: 1}\n`, 'CONFIG_UNKNOWN_KEY', 3, 9, 'train.learningRate'],
    ['snake case', `${minimal}train: {eval_every: 1}\n`, 'CONFIG_UNKNOWN_KEY', 3, 9, 'evalEvery'],
    ['an unknown section', `${minimal}trian: {epochs: 1}\n`, 'CONFIG_UNKNOWN_KEY', 3, 1, 'train'],
    [
      'a slip in an option',
      `${minimal}adapter: {strategy: alora, round: 1}`,
      'CONFIG_UNKNOWN_KEY',
      3,
      28,
      'rounds',
    ],
    ["another strategy's option", `${minimal}adapter:\n  rounds: 1\n`, 'CONFIG_UNKNOWN_KEY', 4, 3, undefined],
    ['__proto__', `${minimal}__proto__: {a: 1}\n`, 'CONFIG_UNKNOWN_KEY', 3, 1, undefined],
    ['an unknown strategy', `${minimal}adapter: {strategy: alra}`, 'CONFIG_UNKNOWN_STRATEGY', 3, 21, 'alora'],
    [
      'a strategy named by prototype',
      `${minimal}adapter: {strategy: toString}`,
      'CONFIG_UNKNOWN_STRATEGY',
      3,
      21,
      undefined,
    ],
    [
      'an unknown task',
      'model: {path: m}\ndata: {train: t, task: chatt}',
      'CONFIG_UNKNOWN_TASK',
      2,
      24,
      'chat',
    ],
    ['a word of a list', `${minimal}train: {schedule: cosin}`, 'CONFIG_VALUE', 3, 19, 'cosine'],
    ['a number below its bound', `${minimal}train:\n  batchSize: 0\n`, 'CONFIG_VALUE', 4, 14, undefined],
    ['a quoted number', `${minimal}train: {batchSize: "16"}`, 'CONFIG_VALUE', 3, 20, undefined],
    ['a fraction of a row', `${minimal}train: {batchSize: 1.5}`, 'CONFIG_VALUE', 3, 20, undefined],
    ['not a number', `${minimal}train: {learningRate: .nan}`, 'CONFIG_VALUE', 3, 23, undefined],
    ['a warm-up of 1.5 steps', `${minimal}train: {warmup: 1.5}`, 'CONFIG_VALUE', 3, 17, undefined],
    ['a list for a section', `${minimal}train: [1]\n`, 'CONFIG_VALUE', 3, 8, undefined],
    [
      'targets as text',
      'model: {path: m, targets: q_proj}\ndata: {train: t}',
      'CONFIG_VALUE',
      1,
      27,
      undefined,
    ],
    ['a missing model', 'data: {train: t}\n', 'CONFIG_MISSING_KEY', 1, 1, undefined],
    ['a missing key', 'model: {}\ndata: {train: t}\n', 'CONFIG_MISSING_KEY', 1, 1, undefined],
    ['both budgets', `${minimal}budget:\n  rank: 8\n  parameters: 9\n`, 'CONFIG_CONFLICT', 5, 15, undefined],
    ['epochs and steps', `${minimal}train: {epochs: 1, steps: 2}`, 'CONFIG_CONFLICT', 3, 27, undefined],
    [
      'no rows left',
      'model: {path: m}\ndata: {train: t, dev: 0.5, test: 0.5}',
      'CONFIG_CONFLICT',
      2,
      34,
      undefined,
    ],
    [
      'int8 on a GPU',
      'model: {path: m, compute: int8}\ndata: {train: t}\nruntime: {device: cuda}',
      'CONFIG_CONFLICT',
      1,
      27,
      undefined,
    ],
    ['a duplicate key', `${minimal}output: a\noutput: b\n`, 'CONFIG_DUPLICATE_KEY', 4, 1, undefined],
    ['a tab', 'model:\n\tpath: m\n', 'CONFIG_SYNTAX', 2, 1, undefined],
    ['an open bracket', 'model: {path: m\ndata: 1', 'CONFIG_SYNTAX', 2, 1, undefined],
    ['two documents', `${minimal}---\nmodel: {}\n`, 'CONFIG_SYNTAX', 3, 1, undefined],
  ])('%s', async (_, text, code, line, column, didYouMean) => {
    const error = await refusal(text);
    expect([error.code, error.exitCode, error.place, error.details.didYouMean]).toEqual([
      code,
      3,
      `run.yaml:${line}:${column}`,
      didYouMean,
    ]);
    expect(error.details.fix).toBeTruthy();
  });

  it.each([
    ['train: {learningRate: fast}', 'write a number such as 0.0001'],
    ['train: {learningRate: 0}', 'write a number above 0'],
    ['train: {batchSize: "8"}', 'write 8 without quotes'],
    ['train: {batchSize: 1.5}', 'write a whole number such as 2'],
    ['train: {batchSize: 1e12}', 'write 2147483648 or less'],
    ['train: {epochs: -1}', 'write a number above 0, or leave train.epochs out'],
    ['train: {recompute: Yes}', 'write true'],
    ['train: {schedule: step}', 'write linear, cosine or constant'],
    ['train: 3', 'write its keys on lines of their own beneath train, indented'],
    ['output: 3', 'write "3", in quotes'],
    ['adapter: {modulesToSave: score}', 'write [score]'],
    ['adapter: {strategy: alora, rounds: many}', 'write a whole number, or leave adapter.rounds out'],
    ['adapter: {strategy: alora, scorer: tailor}', 'write taylor'],
  ])('say what to write instead: %s', async (text, fix) => {
    const error = await refusal(`${minimal}${text}\n`);
    expect([error.code, error.details.fix]).toEqual(['CONFIG_VALUE', fix]);
  });

  it('names every problem at once, unknown keys first', async () => {
    const error = await refusal('model: {pth: m}\ndata: {train: t, maxLength: 0}\n');
    expect(error.message).toBe('unknown key model.pth');
    expect(error.details.also?.map((line) => line.replace(/.*yaml/, 'run.yaml'))).toEqual([
      'run.yaml:1:1: model.path is missing',
      'run.yaml:2:29: data.maxLength cannot be 0',
    ]);
  });

  it.each(['', '# nothing\n', '~'])('an empty file: %j', async (text) => {
    expect((await refusal(text)).code).toBe('CONFIG_EMPTY');
  });

  it('a missing file, a directory, bytes that are not text', async () => {
    const options = { strategies, tasks };
    await expect(readRunFile(join(dir, 'none.yaml'), options)).rejects.toMatchObject({
      code: 'CONFIG_NOT_FOUND',
    });
    await expect(readRunFile(dir, options)).rejects.toMatchObject({ code: 'CONFIG_UNREADABLE' });
    writeFileSync(join(dir, 'bytes.yaml'), Uint8Array.of(0xff, 0xfe, 0x41));
    await expect(readRunFile(join(dir, 'bytes.yaml'), options)).rejects.toMatchObject({
      code: 'CONFIG_UNREADABLE',
    });
  });
});

it('says that a compare file is one', async () => {
  const error = await refusal(`${minimal}strategies: [lora, alora]\nseeds: [0, 1]\n`);
  expect(error).toMatchObject({ code: 'CONFIG_COMPARE_FILE', place: 'run.yaml:3:1' });
  expect(error.details.fix).toContain('npx onnx-alora compare');
});

describe('third-party strategies', () => {
  const own = (name: string) =>
    `export default { name: '${name}', options: { '~standard': { version: 1, vendor: 'x', validate: (value) => ({ value }) } } };`;

  it('come from a module path beside the run file', async () => {
    writeFileSync(join(dir, 'mine.mjs'), own('mine'));
    const run = await read(`${minimal}adapter: {strategy: ./mine.mjs, anything: 3}\n`);
    expect(run.config.adapter).toMatchObject({ strategy: join(dir, 'mine.mjs'), anything: 3 });
    expect(Object.values(run.strategies).map((s) => s.name)).toEqual(['mine']);
  });

  it.each([
    ['main-strategy', 'main-strategy', { main: 'index.mjs' }],
    ['import-strategy', 'import-strategy', { exports: { import: './index.mjs' } }],
    [
      '@me/strategies',
      '@me/strategies/mine',
      { exports: { './mine': { types: './x.d.ts', import: './index.mjs' } } },
    ],
  ])('come from an installed package: %s', async (name, word, entry) => {
    const installed = join(dir, 'node_modules', name);
    mkdirSync(installed, { recursive: true });
    writeFileSync(join(installed, 'package.json'), JSON.stringify({ name, ...entry }));
    writeFileSync(join(installed, 'index.mjs'), own('mine'));
    const run = await read(`${minimal}adapter: {strategy: '${word}', anything: 3}\n`);
    expect(run.config.adapter).toMatchObject({ strategy: word, anything: 3 });
    expect(run.strategies[word]?.name).toBe('mine');
    rmSync(join(dir, 'node_modules'), { recursive: true });
  });

  it.each([
    ['./none.mjs', undefined, 'STRATEGY_NOT_FOUND'],
    ['some/package-that-is-not-there', undefined, 'STRATEGY_NOT_FOUND'],
    ['./syntax.mjs', 'export default {', 'STRATEGY_IMPORT'],
    ['./number.mjs', 'export default 3', 'STRATEGY_INVALID'],
    ['./taken.mjs', own('lora'), 'STRATEGY_DUPLICATE_NAME'],
  ])('%s is refused', async (word, text, code) => {
    if (text !== undefined) writeFileSync(join(dir, word), text);
    const error = await refusal(`${minimal}adapter: {strategy: ${word}}\n`);
    expect([error.code, error.place]).toEqual([code, 'run.yaml:3:21']);
  });
});
