import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { expand, points, withSeed } from '../../src/compare/expand.ts';
import { readCompareFile } from '../../src/compare/file.ts';
import { fingerprinter } from '../../src/compare/fingerprint.ts';
import { AloraError } from '../../src/errors.ts';
import * as strategies from '../../src/strategies.ts';
import { fixture, tinyComparison, writeComparison } from './comparisons.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-compare-file-'));
afterAll(() => rmSync(scratch, { recursive: true }));

let made = 0;
function folder(): string {
  const path = join(scratch, `case-${made++}`);
  mkdirSync(path);
  return path;
}

async function variants(changes: Record<string, unknown> = {}, set: readonly string[] = []) {
  const file = await readCompareFile(writeComparison(folder(), changes), strategies, set);
  return { file, variants: await expand(file, fingerprinter()) };
}

async function refusal(text: string): Promise<AloraError> {
  const path = join(folder(), 'compare.yaml');
  writeFileSync(path, text);
  const error = await readCompareFile(path, strategies)
    .then((file) => expand(file, fingerprinter()))
    .catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(AloraError);
  return error as AloraError;
}

/** The lines of a compare file that works. */
const lines = stringify(tinyComparison('out')).split('\n');
const placeOf = (line: string) => lines.findIndex((one) => one.startsWith(line)) + 1;

describe('a compare file', () => {
  it('multiplies methods and grid, in the order of the file', async () => {
    const { variants: all } = await variants({ grid: { 'budget.rank': [1, 2], 'train.batchSize': [2, 4] } });
    expect(all.map(({ method, point }) => [method, ...Object.values(point)])).toEqual([
      [0, 1, 2],
      [1, 1, 2],
      [0, 1, 4],
      [1, 1, 4],
      [0, 2, 2],
      [1, 2, 2],
      [0, 2, 4],
      [1, 2, 4],
    ]);
    expect(all[7]!.config).toMatchObject({ budget: { rank: 2 }, train: { batchSize: 4 } });
    expect(points({})).toEqual([{}]);
  });

  it('takes patience as off and one thread a run, unless it says otherwise', async () => {
    const [plain] = (await variants()).variants;
    expect(plain!.config.train.patience).toBe(0);
    expect(plain!.config.runtime.threads).toBe(1);
    const [said] = (await variants({ train: { patience: 3 }, runtime: { threads: 2 } })).variants;
    expect(said!.config.train.patience).toBe(3);
    expect(said!.config.runtime.threads).toBe(2);
  });

  it('displaces the other half of an exclusive pair', async () => {
    const { variants: all } = await variants({ grid: { 'budget.parameters': [1000, 2000] } });
    expect(all[0]!.config.budget).toMatchObject({ parameters: 1000 });
    expect(all[0]!.config.budget.rank).toBeUndefined();
  });

  it('gives every run a folder of its own beneath the output, with plain strategy and seed', async () => {
    const { variants: all } = await variants();
    const output = all[0]!.config.output;
    const run = withSeed(output, all[1]!, 1);
    expect(all[1]!.folder).toMatch(/^alora-[0-9a-f]{8}$/);
    expect(run.output).toBe(join(output, all[1]!.folder, 'seed-1'));
    expect(run.train.seed).toBe(1);
    expect(run.adapter).toMatchObject({ strategy: 'alora', rounds: 2 });
  });

  it('names folders by content: the same anywhere, another where anything that decides numbers differs', async () => {
    const folders = async (changes: Record<string, unknown> = {}) =>
      (await variants(changes)).variants.map((variant) => variant.folder);
    const plain = await folders();
    expect(await folders({ seeds: [4, 5, 6], runtime: { threads: 3 }, output: 'elsewhere' })).toEqual(plain);
    const other = await folders({ strategies: ['lora', { strategy: 'alora', rounds: 3, ranksPerRound: 2 }] });
    expect(other[0]).toBe(plain[0]);
    expect(other[1]).not.toBe(plain[1]);
    expect((await folders({ train: { learningRate: 1e-3 } }))[0]).not.toBe(plain[0]);

    // The same path with another content.
    const data = join(folder(), 'train.jsonl');
    writeFileSync(data, '{"text":"one two three"}\n');
    const before = await folders({ data: { train: data } });
    writeFileSync(data, '{"text":"one two four"}\n');
    expect((await folders({ data: { train: data } }))[0]).not.toBe(before[0]);
  });

  it('takes a third party by one line, and --set', async () => {
    const { file, variants: all } = await variants(
      { strategies: ['lora', fixture('rslora-strategy/index.js')] },
      ['budget.rank=1', 'seeds=[7]'],
    );
    expect(file.seeds).toEqual([7]);
    expect(all[1]!.config.budget.rank).toBe(1);
    expect(all[1]!.folder).toMatch(/^rslora-[0-9a-f]{8}$/);
  });
});

describe('refusals name the place', () => {
  const without = (key: string) => lines.filter((line) => !line.startsWith(key)).join('\n');

  it('of an unknown key, with the nearest known one', async () => {
    const error = await refusal(lines.join('\n').replace('seeds:', 'seed:'));
    expect(error).toMatchObject({ kind: 'config', code: 'CONFIG_UNKNOWN_KEY' });
    expect(error.details.where).toMatch(/compare\.yaml:\d+:1$/);
    expect(error.details.didYouMean).toBe('seeds');
  });

  it('of what the run file says elsewhere', async () => {
    const error = await refusal(`${lines.join('\n')}adapter:\n  strategy: lora\n`);
    expect(error.details.where).toMatch(new RegExp(`:${lines.length + 1}:3$`));
    expect(error.details.fix).toContain('strategies');
  });

  it('of an unknown strategy and an option that is none', async () => {
    const word = await refusal(lines.join('\n').replace('- lora', '- lorra'));
    expect(word.code).toBe('CONFIG_UNKNOWN_STRATEGY');
    expect(word.details.where).toMatch(new RegExp(`:${placeOf('  - lora')}:5$`));
    expect(word.details.didYouMean).toBe('lora');
    const option = await refusal(lines.join('\n').replace('rounds: 2', 'round: 2'));
    expect(option.code).toBe('CONFIG_UNKNOWN_KEY');
    expect(option.details.where).toMatch(new RegExp(`:${placeOf('    rounds')}:5$`));
  });

  it('of a value in the grid', async () => {
    const text = `${lines.join('\n')}grid:\n  budget.rank: [1, two]\n`;
    const error = await refusal(text);
    expect(error.details.where).toMatch(new RegExp(`:${lines.length + 1}:20$`));
    const path = await refusal(text.replace('budget.rank', 'budget.rnk'));
    expect(path).toMatchObject({ code: 'CONFIG_UNKNOWN_KEY' });
    expect(path.details.where).toMatch(new RegExp(`:${lines.length + 1}:3$`));
    const seed = await refusal(text.replace('budget.rank', 'train.seed'));
    expect(seed.details.fix).toContain('seeds');
  });

  it('of the same twice, and of nothing to compare', async () => {
    expect((await refusal(lines.join('\n').replace('  - 1', '  - 0'))).message).toContain('twice');
    const error = await refusal(without('strategies').replace(/^ {2}- lora[\s\S]*?(?=^seeds)/m, ''));
    expect(error.message).toContain('strategies is missing');
  });
});
