import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CompareRecord } from '../../src/compare/record.ts';
import { type Outcome, run } from '../cli/builtCli.ts';
import { type Begun, begin, held, hold, release, writeHeldStrategy } from '../cli/held.ts';
import { writeComparison } from './comparisons.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-workers-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** LoRA, which waits where a test says, in its two runs at the same time; then SoRA. */
const changes = {
  strategies: [join(scratch, 'held.mjs'), 'sora'],
  train: { steps: 20, checkpointEvery: 2 },
};
beforeAll(() => writeHeldStrategy(scratch, 'lora'));

function folder(name: string): string {
  const path = join(scratch, name);
  mkdirSync(path);
  writeComparison(path, changes);
  return path;
}

const compare = (cwd: string): Promise<Outcome> =>
  run(cwd, ['compare', 'compare.yaml', '--jobs', '2', '--json']);

/** Starts a comparison and returns as soon as both workers wait behind step 13, of which there is no checkpoint. */
async function begun(cwd: string): Promise<Begun> {
  hold(cwd, 'step 13');
  const started = await begin(cwd, ['compare', 'compare.yaml', '--jobs', '2']);
  await started.until(() => held(cwd).length === 2);
  return started;
}

/** What does not depend on the clock. */
function numbers(stdout: string) {
  const { variants, checks } = JSON.parse(stdout) as CompareRecord;
  return {
    checks,
    variants: variants.map(({ folder: name, runs, summary, againstBaseline, ahead }) => ({
      name,
      summary,
      againstBaseline,
      ahead,
      runs: runs.map(({ folder: id, values, budget, state, recounted }) => ({
        id,
        values,
        budget,
        state,
        recounted,
      })),
    })),
  };
}

/** Checkpoints of the two runs that waited. */
const checkpoints = (cwd: string): string[] =>
  readdirSync(join(cwd, 'out'), { recursive: true, encoding: 'utf8' })
    .filter((path) => /checkpoints\/step-\d+$/.test(path))
    .map((path) => path.slice(-6))
    .sort();

describe('worker processes of the built command line', () => {
  let whole: ReturnType<typeof numbers>;
  beforeAll(async () => {
    const { code, stdout, stderr } = await compare(folder('whole'));
    expect(stderr).not.toContain('error');
    expect(code).toBe(0);
    whole = numbers(stdout);
    expect(whole.variants.flatMap(({ runs }) => runs).map(({ state }) => state)).toEqual(
      Array(4).fill('finished'),
    );
  });

  it('resume after the whole comparison was killed, and end with the same numbers', async () => {
    const cwd = folder('killed');
    const { child, end } = await begun(cwd);
    child.kill('SIGKILL');
    await end;
    release(cwd);
    const again = await compare(cwd);
    expect(again.stderr).not.toContain('error');
    expect(numbers(again.stdout)).toEqual(whole);
    const second = await compare(cwd);
    expect(second.stderr).toContain('nothing to run');
    expect(second.stdout).toBe(again.stdout);
  });

  it('die alone: the others go on, the death is reported, and the next call makes it good', async () => {
    const cwd = folder('crash');
    const { stderr, end } = await begun(cwd);
    process.kill(held(cwd)[0]!, 'SIGKILL');
    release(cwd);
    expect(await end).not.toBe(0);
    expect(stderr()).toContain('error[COMPARE_RUNS_FAILED]: 1 of 4 runs have no result');
    expect(stderr()).toContain('SIGKILL');
    const again = await compare(cwd);
    expect(again.code).toBe(0);
    expect(numbers(again.stdout)).toEqual(whole);
  });

  it.each([
    ['Ctrl-C', 'SIGINT'],
    ['a terminal that is closed', 'SIGHUP'],
  ] as const)('save a checkpoint on %s, and the command ends with 130', async (_, signal) => {
    const cwd = folder(signal);
    const { child, stderr, end } = await begun(cwd);
    expect(checkpoints(cwd)).toEqual(['000010', '000010', '000012', '000012']);
    // A terminal tells the whole group, workers included. They wait until the command has told them what it means.
    process.kill(-child.pid!, signal);
    expect(await end).toBe(130);
    expect(stderr()).toContain('error[INTERRUPTED]');
    expect(checkpoints(cwd)).toEqual(['000012', '000012', '000013', '000013']);
    const left = readdirSync(join(cwd, 'out'), { recursive: true, encoding: 'utf8' });
    expect(left.filter((path) => path.endsWith('.lock'))).toEqual([]);
    release(cwd);
    const again = await compare(cwd);
    expect(numbers(again.stdout)).toEqual(whole);
  });
});
