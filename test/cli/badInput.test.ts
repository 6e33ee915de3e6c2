import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { builtCli, run } from './builtCli.ts';

const dir = mkdtempSync(join(tmpdir(), 'bad-input-'));
afterAll(() => rmSync(dir, { recursive: true }));

function file(path: string, contents: string | Uint8Array): void {
  mkdirSync(dirname(join(dir, path)), { recursive: true });
  writeFileSync(join(dir, path), contents);
}

const minimal = 'model: {path: model}\ndata: {train: rows.jsonl}\n';

beforeAll(async () => {
  await builtCli();
  file('empty.yaml', '');
  file('syntax.yaml', 'model: {path: m\ndata: 1\n');
  file('duplicate.yaml', `${minimal}output: a\noutput: b\n`);
  file('typo.yaml', `${minimal}train:\n  bachSize: 4\n`);
  file('type.yaml', `${minimal}train:\n  batchSize: "4"\n`);
  file('range.yaml', `${minimal}train: {learningRate: -1}\n`);
  file('strategy.yaml', `${minimal}adapter: {strategy: lroa}\n`);
  file('module.yaml', `${minimal}adapter: {strategy: ./mine.js}\n`);
  file('task.yaml', 'model: {path: model}\ndata: {train: rows.jsonl, task: promt}\n');
  file('exclusive.yaml', `${minimal}budget: {rank: 8, parameters: 1000}\n`);
  file('missing.yaml', 'model: {path: model}\n');
  file('minimal.yaml', minimal);
  file('taken.yaml', 'mine: true\n');
});

/** Every refusal is one block on stderr: a code, and details that start with two spaces. */
const block = /^error\[[A-Z][A-Z0-9_]*\]: .+\n(?: {2}(?:where|got|allowed|did you mean|fix|also): .+\n)*$/;

interface Case {
  readonly what: string;
  readonly args: string;
  readonly exit: number;
  readonly code: string;
  /** A part of the block that names the thing. */
  readonly says: string;
}

const cases: readonly Case[] = [
  {
    what: 'a verb with a slip',
    args: 'trian run.yaml',
    exit: 2,
    code: 'USAGE_UNKNOWN_COMMAND',
    says: 'did you mean: train',
  },
  {
    what: 'a flag with a slip',
    args: 'train typo.yaml --resum',
    exit: 2,
    code: 'USAGE_UNKNOWN_OPTION',
    says: 'did you mean: --resume',
  },
  { what: 'no run file given', args: 'train', exit: 2, code: 'USAGE_MISSING_ARGUMENT', says: 'run.yaml' },
  {
    what: 'a file too many',
    args: 'train a.yaml b.yaml',
    exit: 2,
    code: 'USAGE_EXCESS_ARGUMENTS',
    says: 'too many arguments',
  },
  {
    what: 'a flag without its value',
    args: 'eval minimal.yaml --adapter',
    exit: 2,
    code: 'USAGE_OPTION_MISSING_ARGUMENT',
    says: '--adapter',
  },
  {
    what: 'an unknown split',
    args: 'eval minimal.yaml --split tset',
    exit: 2,
    code: 'USAGE_INVALID_ARGUMENT',
    says: 'test',
  },
  {
    what: 'resume and force',
    args: 'train minimal.yaml --resume --force',
    exit: 2,
    code: 'USAGE_CONFLICT',
    says: '--resume',
  },
  {
    what: 'a setting without a value',
    args: 'train minimal.yaml --set train.steps',
    exit: 2,
    code: 'SET_SYNTAX',
    says: '--set train.steps',
  },
  {
    what: 'an unknown template',
    args: 'init new.yaml --template date',
    exit: 2,
    code: 'INIT_UNKNOWN_TEMPLATE',
    says: 'did you mean: dates',
  },
  {
    what: 'a run file that is not YAML',
    args: 'init run.json',
    exit: 2,
    code: 'INIT_NOT_YAML',
    says: 'run.yaml',
  },
  { what: 'init over a file', args: 'init taken.yaml', exit: 7, code: 'INIT_EXISTS', says: '--force' },
  { what: 'no such run file', args: 'train none.yaml', exit: 3, code: 'CONFIG_NOT_FOUND', says: 'none.yaml' },
  { what: 'a folder as run file', args: 'train .', exit: 3, code: 'CONFIG_UNREADABLE', says: 'directory' },
  { what: 'an empty run file', args: 'train empty.yaml', exit: 3, code: 'CONFIG_EMPTY', says: 'init' },
  {
    what: 'broken YAML',
    args: 'train syntax.yaml',
    exit: 3,
    code: 'CONFIG_SYNTAX',
    says: 'where: syntax.yaml:2:1',
  },
  {
    what: 'a key twice',
    args: 'train duplicate.yaml',
    exit: 3,
    code: 'CONFIG_DUPLICATE_KEY',
    says: 'where: duplicate.yaml:4:1',
  },
  {
    what: 'an unknown key',
    args: 'train typo.yaml',
    exit: 3,
    code: 'CONFIG_UNKNOWN_KEY',
    says: 'where: typo.yaml:4:3\n',
  },
  {
    what: 'a number in quotes',
    args: 'train type.yaml',
    exit: 3,
    code: 'CONFIG_VALUE',
    says: 'without quotes',
  },
  { what: 'a number out of range', args: 'train range.yaml', exit: 3, code: 'CONFIG_VALUE', says: 'above 0' },
  {
    what: 'an unknown strategy',
    args: 'train strategy.yaml',
    exit: 3,
    code: 'CONFIG_UNKNOWN_STRATEGY',
    says: 'did you mean: lora',
  },
  {
    what: 'a strategy module that is not there',
    args: 'train module.yaml',
    exit: 3,
    code: 'STRATEGY_NOT_FOUND',
    says: 'mine.js',
  },
  {
    what: 'an unknown task',
    args: 'train task.yaml',
    exit: 3,
    code: 'CONFIG_UNKNOWN_TASK',
    says: 'did you mean: prompt',
  },
  {
    what: 'two budgets',
    args: 'train exclusive.yaml',
    exit: 3,
    code: 'CONFIG_CONFLICT',
    says: 'budget.parameters',
  },
  {
    what: 'a missing key',
    args: 'train missing.yaml',
    exit: 3,
    code: 'CONFIG_MISSING_KEY',
    says: 'data is missing',
  },
  {
    what: 'a setting of an unknown key',
    args: 'train minimal.yaml --set train.step=3',
    exit: 3,
    code: 'CONFIG_UNKNOWN_KEY',
    says: 'did you mean: steps',
  },
  {
    what: 'a setting of a wrong value',
    args: 'train minimal.yaml --set train.steps=few',
    exit: 3,
    code: 'CONFIG_VALUE',
    says: 'where: --set train.steps=few',
  },
];

describe.concurrent('the built command line refuses', () => {
  it.each(cases)('$what', async ({ args, exit, code, says }) => {
    const outcome = await run(dir, args.split(' '));
    expect(outcome.stderr).toMatch(block);
    expect(outcome.stderr).toContain(`error[${code}]`);
    expect(outcome.stderr).toContain(says);
    expect([outcome.code, outcome.stdout]).toEqual([exit, '']);
  });
});

describe('the built command line', () => {
  it('ends quietly when its reader has seen enough', async () => {
    const { execFileSync } = await import('node:child_process');
    const command = `"${process.execPath}" "${await builtCli()}" schema | head -1`;
    expect(execFileSync('sh', ['-c', command], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })).toBe(
      '{\n',
    );
  });

  it('prints a stack with --verbose only', async () => {
    expect((await run(dir, ['train', 'typo.yaml', '--verbose'])).stderr).toMatch(/^ +at /m);
    expect((await run(dir, ['train', 'typo.yaml'])).stderr).not.toMatch(/^ +at /m);
  });

  it('shows one real example in the help of every verb', async () => {
    const { stdout } = await run(dir, ['--help']);
    const verbs = [...stdout.matchAll(/^ {2}([a-z]+) .*$/gm)]
      .map(([, verb]) => verb!)
      .filter((verb) => verb !== 'help');
    expect(verbs.length).toBeGreaterThanOrEqual(7);
    for (const verb of verbs)
      expect((await run(dir, [verb, '--help'])).stdout).toMatch(
        new RegExp(`Example:\n {2}onnx-alora ${verb}`),
      );
  });
});
