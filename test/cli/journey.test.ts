import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { builtCli, run } from './builtCli.ts';
import { begin, held, hold, release, writeHeldStrategy } from './held.ts';
import { put } from './refusals.ts';

const dir = mkdtempSync(join(tmpdir(), 'journey-'));
afterAll(() => rmSync(dir, { recursive: true }));
/** What the training printed whose adapter the other verbs use. */
let screen: string;

beforeAll(async () => {
  await builtCli();
  cpSync(resolve('fixtures/models/llama'), join(dir, 'model'), { recursive: true });
  const row = (i: number) => JSON.stringify({ prompt: `row ${i % 7} is`, completion: ` number ${i % 7}` });
  const rows = (from: number, to: number) =>
    Array.from({ length: to - from }, (_, i) => `${row(from + i)}\n`).join('');
  put(dir, 'train.jsonl', rows(0, 40));
  put(dir, 'dev.jsonl', rows(40, 50));
  put(
    dir,
    'run.yaml',
    `model: {path: model, file: onnx/model.onnx}
data: {task: prompt, train: train.jsonl, dev: dev.jsonl, maxLength: 32}
budget: {rank: 2}
train: {steps: 6, batchSize: 8, learningRate: 1e-2, evalEvery: 3}
runtime: {threads: 1}
output: out
`,
  );
  screen = await verb('train run.yaml');
});

/** Runs a verb that has to succeed and say nothing on stderr. */
async function verb(line: string): Promise<string> {
  const { code, stdout, stderr } = await run(dir, line.split(' '));
  expect([code, stderr]).toEqual([0, '']);
  return stdout;
}

describe('the built command line, from a model to a merged model', () => {
  it('inspect names the target modules and what a rank costs', async () => {
    expect(await verb('inspect model')).toMatch(/layers\.0\.self_attn\.q_proj +32 +32 +64\n/);
    const parsed = JSON.parse(await verb('inspect model --targets q_proj --json'));
    expect(parsed.modules.filter((m: { target: boolean }) => m.target)).toHaveLength(2);
  });

  it('data marks what is trained', async () => {
    expect(await verb('data run.yaml --rows 1')).toMatch(/train\.jsonl:1 .*\n.*row 0 is\[.*number 0.*\]\n/);
    const rows = JSON.parse(await verb('data run.yaml --json --rows 2')).examples;
    expect(rows).toHaveLength(2);
    expect(rows[0].tokens.some(({ trained }: { trained: boolean }) => trained)).toBe(true);
    expect(JSON.parse(await verb('data run.yaml --json')).splits.train).toMatchObject({
      rows: 40,
      dropped: [],
    });
  });

  it('train --dry-run prints plan and budget and writes nothing', async () => {
    expect(await verb('train run.yaml --dry-run')).toMatch(/final \(must meet the budget\) .* 100\.0 %/);
    const { config, plan } = JSON.parse(await verb('train run.yaml --set output=dry --dry-run --json'));
    expect([config.train.steps, plan.totalSteps, plan.modules.length]).toEqual([6, 6, 14]);
    expect(existsSync(join(dir, 'dry'))).toBe(false);
  });

  it('train prints a row a step, a summary, and ends with a report', () => {
    expect(screen.split('\n').filter((line) => /^ +[0-6] /.test(line))).toHaveLength(7);
    expect(screen).toMatch(/\nfinished .*step 6 of 6/);
    expect(readdirSync(join(dir, 'out'))).toEqual(
      expect.arrayContaining(['adapter', 'best', 'metrics.jsonl', 'report.html', 'result.json', 'run.yaml']),
    );
  });

  it('train --resume changes nothing in a finished run', async () => {
    const before = readFileSync(join(dir, 'out/report.html'));
    expect(await verb('train run.yaml --resume')).toBe('out is finished already: nothing to do\n');
    expect(readFileSync(join(dir, 'out/report.html')).equals(before)).toBe(true);
  });

  it('train --json prints the result, and run.yaml of the run folder gives the same run', async () => {
    const result = JSON.parse(await verb('train out/run.yaml --set output=again --json'));
    const first = JSON.parse(readFileSync(join(dir, 'out/result.json'), 'utf8'));
    expect(result.configHash).toBe(first.configHash);
    expect(result.dev).toEqual(first.dev);
  });

  it('eval scores base and adapter', async () => {
    const base = JSON.parse(await verb('eval run.yaml --json'));
    const adapted = JSON.parse(await verb('eval run.yaml --adapter out/best --json'));
    expect(base).toMatchObject({ adapter: null, split: 'dev', rows: 10 });
    expect(adapted.loss).toBeLessThan(base.loss);
    const scores = await verb('eval run.yaml');
    expect(scores).toMatch(/^answers \d+ prompts of dev\n/);
    expect(scores).toContain(`loss           ${base.loss.toFixed(4)}`);
  });

  it('merge verifies, and the merged model writes what model and adapter write', async () => {
    expect(await verb('merge out/best --model model --out merged')).toMatch(
      /verified onnx\/model\.onnx: max \|delta logit\| /,
    );
    const ours = await verb(
      'generate --model model --file onnx/model.onnx --adapter out/best --prompt row --max-new-tokens 4',
    );
    expect(await verb('generate --model merged --file onnx/model.onnx --prompt row --max-new-tokens 4')).toBe(
      ours,
    );
    const beams = JSON.parse(
      await verb('generate --model merged --prompt row --beams 2 --max-new-tokens 4 --json'),
    );
    expect(beams.prompt).toBe('row');
  });

  it('graph writes plain ONNX files and a manifest', async () => {
    expect(await verb('graph run.yaml --out graphs')).toContain('wrote graphs/step.onnx\n');
    expect(existsSync(join(dir, 'graphs/manifest.json'))).toBe(true);
  });

  it('Ctrl-C saves a checkpoint and exits with 130; --resume goes on from there', async () => {
    await writeHeldStrategy(dir, 'lora');
    const line = 'train run.yaml --set output=stopped --set adapter.strategy=./held.mjs'.split(' ');
    hold(dir, 'step 4');
    const { child, end, stderr, until } = await begin(dir, line);
    await until(() => held(dir).length === 1);
    child.kill('SIGINT');
    await until(() => stderr().includes('SIGINT: saving a checkpoint'));
    release(dir);
    expect(await end).toBe(130);
    expect(stderr()).toContain('error[INTERRUPTED]: Interrupted after step 4');
    expect(readdirSync(join(dir, 'stopped/checkpoints'))).toEqual(['step-000004']);
    // A run with other settings is refused; the same one goes on.
    const other = await run(dir, [...line, '--resume', '--set', 'train.seed=1']);
    expect([other.code, other.stderr]).toEqual([3, expect.stringContaining('CHECKPOINT_OTHER_RUN')]);
    const resumed = await run(dir, [...line, '--resume']);
    expect([resumed.code, resumed.stdout]).toEqual([0, expect.stringContaining('step 6 of 6')]);
  });
});
