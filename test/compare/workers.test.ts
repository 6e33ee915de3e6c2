import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CompareRecord } from '../../src/compare/record.ts';
import { builtCli, type Outcome, run } from '../cli/builtCli.ts';
import { writeComparison } from './comparisons.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-workers-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const changes = { strategies: ['lora', 'sora'], train: { steps: 20, checkpointEvery: 2 } };

function folder(name: string): string {
  const path = join(scratch, name);
  mkdirSync(path);
  writeComparison(path, changes);
  return path;
}

const compare = (cwd: string): Promise<Outcome> =>
  run(cwd, ['compare', 'compare.yaml', '--jobs', '2', '--json']);

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

/** Folders of the runs. Their insides change while one looks: nothing here walks through them. */
function runFolders(output: string): string[] {
  if (!existsSync(output)) return [];
  return readdirSync(output)
    .filter((name) => /-[0-9a-f]{8}$/.test(name))
    .flatMap((name) => readdirSync(join(output, name)).map((seed) => join(output, name, seed)));
}

/** Steps that all runs beneath a folder have made so far. */
const stepsMade = (output: string): number =>
  runFolders(output)
    .map((run) => join(run, 'metrics.jsonl'))
    .filter((path) => existsSync(path))
    .map((path) => readFileSync(path, 'utf8').split('"event":"step"').length - 1)
    .reduce((a, b) => a + b, 0);

async function until(met: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 30_000; !met(); ) {
    if (Date.now() > deadline) throw new Error('what the test waits for does not happen');
    await new Promise((done) => setTimeout(done, 20));
  }
}

async function begun(
  cwd: string,
): Promise<{ child: ChildProcess; stderr: () => string; code: Promise<number | null> }> {
  const child = spawn(process.execPath, [await builtCli(), 'compare', 'compare.yaml', '--jobs', '2'], {
    cwd,
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  });
  let stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (text) => (stderr += text));
  const code = new Promise<number | null>((done) => child.on('close', done));
  return { child, stderr: () => stderr, code };
}

/** Processes of the workers, from the locks that they hold. */
const workers = (output: string): number[] =>
  runFolders(output)
    .map((run) => join(run, '.lock'))
    .filter((path) => existsSync(path))
    .map((path) => (JSON.parse(readFileSync(path, 'utf8')) as { pid: number }).pid);

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
    const output = join(cwd, 'out');
    const { child, code } = await begun(cwd);
    await until(() => stepsMade(output) >= 25);
    child.kill('SIGKILL');
    await code;
    expect(stepsMade(output)).toBeLessThan(80);
    const again = await compare(cwd);
    expect(again.stderr).not.toContain('error');
    expect(numbers(again.stdout)).toEqual(whole);
    const second = await compare(cwd);
    expect(second.stderr).toContain('nothing to run');
    expect(second.stdout).toBe(again.stdout);
  });

  it('die alone: the others go on, the death is reported, and the next call makes it good', async () => {
    const cwd = folder('crash');
    const output = join(cwd, 'out');
    const { stderr, code } = await begun(cwd);
    await until(() => stepsMade(output) >= 4);
    process.kill(workers(output)[0]!, 'SIGKILL');
    expect(await code).not.toBe(0);
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
    const output = join(cwd, 'out');
    const { child, stderr, code } = await begun(cwd);
    await until(() => stepsMade(output) >= 11);
    // A terminal tells the whole group, workers included.
    process.kill(-child.pid!, signal);
    expect(await code).toBe(130);
    expect(stderr()).toContain('error[INTERRUPTED]');
    const left = readdirSync(output, { recursive: true, encoding: 'utf8' });
    expect(left.some((path) => /checkpoints\/step-\d+$/.test(path))).toBe(true);
    expect(left.filter((path) => path.endsWith('.lock'))).toEqual([]);
    const again = await compare(cwd);
    expect(numbers(again.stdout)).toEqual(whole);
  });
});
