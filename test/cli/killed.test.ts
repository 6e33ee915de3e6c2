import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { run } from './builtCli.ts';
import { begin, held, hold, release, writeHeldStrategy } from './held.ts';

const fixtures = new URL('../../fixtures/', import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-killed-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** ALoRA, which waits where the test says. */
const runFile = `model: {path: ${fixtures}models/llama}
data: {task: text, train: ${fixtures}traces/text.jsonl, dev: ${fixtures}traces/dev.jsonl, maxLength: 32}
adapter: {strategy: ${scratch}/held.mjs, scorer: exact, rounds: 3, firstRoundAfter: 8, roundEvery: 4}
budget: {rank: 4}
train: {steps: 20, batchSize: 4, learningRate: 2e-2, evalEvery: 0, checkpointEvery: 5}
runtime: {threads: 1}
output: out
`;
beforeAll(() => writeHeldStrategy(scratch, 'alora'));

function folderFor(name: string): string {
  const folder = join(scratch, name);
  mkdirSync(folder);
  writeFileSync(join(folder, 'run.yaml'), runFile);
  return folder;
}

it('kill -9 in the middle of scoring: --resume repeats the round and ends bit for bit the same', async () => {
  const [whole, killed] = [folderFor('whole'), folderFor('killed')];
  hold(killed, 'scoring 2');
  const { child, end, until } = await begin(killed, ['train', 'run.yaml']);
  await until(() => held(killed).length === 1);
  child.kill('SIGKILL');
  expect(await end).toBe('SIGKILL');
  const allocations = (folder: string) =>
    readFileSync(join(folder, 'out/metrics.jsonl'), 'utf8').match(/"event":"allocation"/g)!.length;
  expect(allocations(killed)).toBe(1);

  release(killed);
  expect(await run(killed, ['train', 'run.yaml', '--resume'])).toMatchObject({ code: 0 });
  expect(await run(whole, ['train', 'run.yaml'])).toMatchObject({ code: 0 });
  expect(allocations(killed)).toBe(3);
  for (const file of ['adapter/adapter_model.safetensors', 'scores/round-2.json', 'scores/round-3.json'])
    expect(readFileSync(join(killed, 'out', file)), file).toEqual(readFileSync(join(whole, 'out', file)));
});

it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
  '%s saves a checkpoint and ends with 130',
  async (signal) => {
    const folder = folderFor(signal);
    hold(folder, 'step 2');
    const { child, end, stderr, until } = await begin(folder, ['train', 'run.yaml']);
    await until(() => held(folder).length === 1);
    child.kill(signal);
    // The process has heard the signal; its step may end now.
    await until(() => stderr().includes(`${signal}: saving a checkpoint after this step`));
    release(folder);
    expect(await end).toBe(130);
    expect(readdirSync(join(folder, 'out/checkpoints'))).toEqual(['step-000002']);
    expect(existsSync(join(folder, 'out/result.json'))).toBe(false);
    expect(existsSync(join(folder, 'out/.lock'))).toBe(false);
  },
);
