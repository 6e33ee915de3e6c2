import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, it } from 'vitest';
import { builtCli, run } from './builtCli.ts';

const fixtures = new URL('../../fixtures/', import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-killed-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const secondRound = 12;
const runFile = `model: {path: ${fixtures}models/llama}
data: {task: text, train: ${fixtures}traces/text.jsonl, dev: ${fixtures}traces/dev.jsonl, maxLength: 32}
adapter: {strategy: alora, scorer: exact, rounds: 3, firstRoundAfter: 8, roundEvery: 4}
budget: {rank: 4}
train: {steps: 20, batchSize: 4, learningRate: 2e-2, evalEvery: 0, checkpointEvery: 5}
runtime: {threads: 1}
`;

const lines = (folder: string) =>
  existsSync(join(folder, 'metrics.jsonl')) ? readFileSync(join(folder, 'metrics.jsonl'), 'utf8') : '';

it('kill -9 in the middle of scoring: --resume repeats the round and ends bit for bit the same', async () => {
  const whole = join(scratch, 'whole');
  const killed = join(scratch, 'killed');
  writeFileSync(join(scratch, 'run.yaml'), runFile);
  const train = (output: string, ...more: string[]) => [
    'train',
    'run.yaml',
    '--set',
    `output=${output}`,
    ...more,
  ];
  const child = spawn(process.execPath, [await builtCli(), ...train(killed)], {
    cwd: scratch,
    stdio: 'ignore',
  });
  const gone = new Promise((done) => child.on('close', (_, signal) => done(signal)));
  // The step is written before its round begins.
  while (!lines(killed).includes(`"step":${secondRound},`) && child.exitCode === null) await sleep(2);
  child.kill('SIGKILL');
  expect(await gone).toBe('SIGKILL');
  const allocations = (folder: string) => lines(folder).match(/"event":"allocation"/g)?.length ?? 0;
  expect(allocations(killed)).toBe(1);

  expect(await run(scratch, train(killed, '--resume'))).toMatchObject({ code: 0 });
  expect(await run(scratch, train(whole))).toMatchObject({ code: 0 });
  expect(allocations(killed)).toBe(3);
  for (const file of ['adapter/adapter_model.safetensors', 'scores/round-2.json', 'scores/round-3.json'])
    expect(readFileSync(join(killed, file)), file).toEqual(readFileSync(join(whole, file)));
}, 120_000);

it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
  '%s saves a checkpoint and ends with 130',
  async (signal) => {
    const folder = join(scratch, signal);
    writeFileSync(join(scratch, 'long.yaml'), runFile.replace('steps: 20', 'steps: 5000'));
    const child = spawn(
      process.execPath,
      [await builtCli(), 'train', 'long.yaml', '--set', `output=${folder}`],
      {
        cwd: scratch,
        stdio: 'ignore',
      },
    );
    const gone = new Promise((done) => child.on('close', (code) => done(code)));
    while (!lines(folder).includes('"step":2,') && child.exitCode === null) await sleep(2);
    child.kill(signal);
    expect(await gone).toBe(130);
    expect(readdirSync(join(folder, 'checkpoints')).length).toBeGreaterThan(0);
    expect(existsSync(join(folder, 'result.json'))).toBe(false);
    expect(existsSync(join(folder, '.lock'))).toBe(false);
  },
  60_000,
);
