import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { builtCli, run } from './builtCli.ts';
import { expectRefusal, put, type Refusal } from './refusals.ts';

const dir = mkdtempSync(join(tmpdir(), 'bad-command-line-'));
afterAll(() => rmSync(dir, { recursive: true }));

const minimal = 'model: {path: model}\ndata: {train: rows.jsonl}\n';

const runFiles = {
  'empty.yaml': '',
  'syntax.yaml': 'model: {path: m\ndata: 1\n',
  'duplicate.yaml': `${minimal}output: a\noutput: b\n`,
  'typo.yaml': `${minimal}train:\n  bachSize: 4\n`,
  'type.yaml': `${minimal}train:\n  batchSize: "4"\n`,
  'range.yaml': `${minimal}train: {learningRate: -1}\n`,
  'strategy.yaml': `${minimal}adapter: {strategy: lroa}\n`,
  'module.yaml': `${minimal}adapter: {strategy: ./mine.js}\n`,
  'task.yaml': 'model: {path: model}\ndata: {train: rows.jsonl, task: promt}\n',
  'exclusive.yaml': `${minimal}budget: {rank: 8, parameters: 1000}\n`,
  'missing.yaml': 'model: {path: model}\n',
  'minimal.yaml': minimal,
  'compare.yaml': `${minimal}strategies: [lora, alora]\nseeds: [0]\n`,
  'loop.yaml': 'model: &m {path: model, more: *m}\n',
  'taken.yaml': 'mine: true\n',
};

beforeAll(async () => {
  await builtCli();
  for (const [name, text] of Object.entries(runFiles)) put(dir, name, text);
});

const refusals: readonly Refusal[] = [
  ['no model to generate with', 'generate --prompt hi', 2, 'USAGE_MISSING_MANDATORY_OPTION_VALUE', '--model'],
  [
    'a negative temperature',
    'generate --model m --prompt hi --temperature -1',
    2,
    'USAGE_INVALID_ARGUMENT',
    'at least 0',
  ],
  [
    'half a token',
    'generate --model m --prompt hi --max-new-tokens 0.5',
    2,
    'USAGE_INVALID_ARGUMENT',
    'an integer, at least 1',
  ],
  [
    'top-k without sampling',
    'generate --model m --prompt hi --top-k 5',
    2,
    'USAGE_CONFLICT',
    '--temperature',
  ],
  [
    'beams and sampling',
    'generate --model m --prompt hi --beams 4 --temperature 1',
    2,
    'USAGE_CONFLICT',
    '--beams',
  ],
  ['a verb with a slip', 'trian run.yaml', 2, 'USAGE_UNKNOWN_COMMAND', 'did you mean: train'],
  ['a flag with a slip', 'train typo.yaml --resum', 2, 'USAGE_UNKNOWN_OPTION', 'did you mean: --resume'],
  ['help of no verb', 'help trian', 2, 'USAGE_UNKNOWN_COMMAND', 'did you mean: train'],
  ['an empty flag', 'merge a --model m --out ', 2, 'USAGE_EMPTY', '--out'],
  ['an empty argument', 'inspect ', 2, 'USAGE_EMPTY', '<model>'],
  [
    'an alias in a setting',
    'train minimal.yaml --set data.train=*.txt',
    2,
    'SET_SYNTAX',
    `'data.train="*.txt"'`,
  ],
  ['a compare file', 'train compare.yaml', 3, 'CONFIG_COMPARE_FILE', 'npx onnx-alora compare'],
  ['a section that holds itself', 'train loop.yaml', 3, 'CONFIG_SYNTAX', 'alias'],
  ['no run file given', 'train', 2, 'USAGE_MISSING_ARGUMENT', 'run.yaml'],
  ['a file too many', 'train a.yaml b.yaml', 2, 'USAGE_EXCESS_ARGUMENTS', 'too many arguments'],
  [
    'a flag without its value',
    'eval minimal.yaml --adapter',
    2,
    'USAGE_OPTION_MISSING_ARGUMENT',
    '--adapter',
  ],
  ['an unknown split', 'eval minimal.yaml --split tset', 2, 'USAGE_INVALID_ARGUMENT', 'test'],
  ['resume and force', 'train minimal.yaml --resume --force', 2, 'USAGE_CONFLICT', '--resume'],
  ['a setting without a value', 'train minimal.yaml --set train.steps', 2, 'SET_SYNTAX', '--set train.steps'],
  ['an unknown template', 'init new.yaml --template date', 2, 'INIT_UNKNOWN_TEMPLATE', 'did you mean: dates'],
  ['a run file that is not YAML', 'init run.json', 2, 'INIT_NOT_YAML', 'run.yaml'],
  ['init over a file', 'init taken.yaml', 7, 'INIT_EXISTS', '--force'],
  ['no such run file', 'train none.yaml', 3, 'CONFIG_NOT_FOUND', 'none.yaml'],
  ['a folder as run file', 'train .', 3, 'CONFIG_UNREADABLE', 'directory'],
  ['an empty run file', 'train empty.yaml', 3, 'CONFIG_EMPTY', 'init'],
  ['broken YAML', 'train syntax.yaml', 3, 'CONFIG_SYNTAX', 'where: syntax.yaml:2:1'],
  ['a key twice', 'train duplicate.yaml', 3, 'CONFIG_DUPLICATE_KEY', 'where: duplicate.yaml:4:1'],
  ['an unknown key', 'train typo.yaml', 3, 'CONFIG_UNKNOWN_KEY', 'where: typo.yaml:4:3\n'],
  ['a number in quotes', 'train type.yaml', 3, 'CONFIG_VALUE', 'without quotes'],
  ['a number out of range', 'train range.yaml', 3, 'CONFIG_VALUE', 'above 0'],
  ['an unknown strategy', 'train strategy.yaml', 3, 'CONFIG_UNKNOWN_STRATEGY', 'did you mean: lora'],
  ['a strategy module that is not there', 'train module.yaml', 3, 'STRATEGY_NOT_FOUND', 'mine.js'],
  ['an unknown task', 'train task.yaml', 3, 'CONFIG_UNKNOWN_TASK', 'did you mean: prompt'],
  ['two budgets', 'train exclusive.yaml', 3, 'CONFIG_CONFLICT', 'budget.parameters'],
  ['a missing key', 'train missing.yaml', 3, 'CONFIG_MISSING_KEY', 'data is missing'],
  [
    'a setting of an unknown key',
    'train minimal.yaml --set train.step=3',
    3,
    'CONFIG_UNKNOWN_KEY',
    'did you mean: steps',
  ],
  [
    'a setting of a wrong value',
    'train minimal.yaml --set train.steps=few',
    3,
    'CONFIG_VALUE',
    'where: --set train.steps=few',
  ],
];

describe.concurrent('the built command line refuses', () => {
  it.each(refusals)('%s: %s', (...refusal) => expectRefusal(dir, refusal));
});

describe('the built command line', () => {
  it('ends quietly when its reader has seen enough', async () => {
    const command = `"${process.execPath}" "${await builtCli()}" schema | head -1`;
    expect(execFileSync('sh', ['-c', command], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })).toBe(
      '{\n',
    );
  });

  it('prints a stack with --verbose only', async () => {
    expect((await run(dir, ['train', 'typo.yaml', '--verbose'])).stderr).toMatch(/^ +at /m);
    expect((await run(dir, ['train', 'typo.yaml'])).stderr).not.toMatch(/^ +at /m);
  });

  it('says in the help which options must be given', async () => {
    const { stdout } = await run(dir, ['score', '--help']);
    expect(stdout).toMatch(/--adapter <dir> .*\(required\)$/m);
    expect(stdout).toMatch(/--scorer <scorer> [^-]*"exact"\)$/m);
    expect(stdout).toMatch(/--set <path=value> [^-]*repeatable$/m);
  });

  it('shows one real example in the help of every verb', async () => {
    const { stdout } = await run(dir, ['--help']);
    const verbs = [...stdout.matchAll(/^ {2}([a-z]+) .*$/gm)]
      .map(([, verb]) => verb!)
      .filter((verb) => verb !== 'help');
    expect(verbs.length).toBeGreaterThanOrEqual(11);
    for (const verb of verbs)
      expect((await run(dir, [verb, '--help'])).stdout).toMatch(
        new RegExp(`Example:\n {2}npx onnx-alora ${verb}`),
      );
  });
});
