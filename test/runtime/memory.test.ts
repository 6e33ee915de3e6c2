import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gpt2Config, writeGpt2 } from '../../bench/models/gpt2.ts';
import { Arena } from '../../src/runtime/arena.ts';
import * as strategies from '../../src/strategies.ts';
import { assemble, openModel } from '../../src/training/assemble.ts';
import { run } from '../cli/builtCli.ts';
import { put } from '../cli/refusals.ts';
import fc from '../fastCheck.ts';
import { tinyRun } from '../training/runs.ts';

describe('the arena', () => {
  it('holds every live byte, and after a release gives the same place again', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 3_000_000 }), { maxLength: 40 }), (sizes) => {
        const arena = new Arena();
        const chunks = sizes.map((size) => arena.allocate(size));
        const before = arena.resident;
        expect(before).toBeGreaterThanOrEqual(sizes.reduce((sum, size) => sum + size, 0));
        for (const chunk of chunks) arena.release(chunk);
        for (const size of sizes) arena.allocate(size);
        expect(arena.resident).toBeLessThanOrEqual(before + sizes.length * 256);
      }),
    );
  });
});

describe.skipIf(!existsSync('/proc/self/smaps'))('weights (needs /proc)', () => {
  it('are mapped from one file, by the session that works', async () => {
    const config = tinyRun('unused', { model: { path: 'fixtures/models/presidents' } });
    const assembly = assemble(openModel(config.model), config, {
      strategies,
      length: { totalSteps: 2, stepsPerEpoch: 2 },
    });
    await assembly.runtime.open();
    const batch = {
      size: 1,
      length: 4,
      inputIds: BigInt64Array.of(5n, 6n, 7n, 8n),
      attentionMask: new BigInt64Array(4).fill(1n),
      positionIds: BigInt64Array.of(0n, 1n, 2n, 3n),
      rows: BigInt64Array.of(0n),
      targets: BigInt64Array.of(6n),
    };
    const { size } = statSync(join(assembly.workspace.folder, 'weights-0.bin'));
    const mapped = (key: string) =>
      readFileSync('/proc/self/smaps', 'utf8')
        .split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/)
        .filter((text) => text.split('\n')[0]!.includes(join(assembly.workspace.folder, 'weights-0.bin')))
        .reduce((sum, text) => sum + 1024 * Number(new RegExp(`^${key}: +(\\d+)`, 'm').exec(text)?.[1]), 0);
    // The system counts what several sessions have read for each of them, although it lies in memory once.
    await assembly.runtime.step(batch, { loss: 1, penalty: 1 });
    expect(mapped('Rss')).toBeGreaterThan(0.5 * size);
    expect(mapped('Rss')).toBeLessThan(1.1 * size);
    await assembly.runtime.evaluate(batch);
    expect(mapped('Rss')).toBeGreaterThan(0.5 * size);
    expect(mapped('Rss')).toBeLessThan(1.1 * size);
    await assembly.runtime.step(batch, { loss: 1, penalty: 1 });
    expect(mapped('Rss')).toBeLessThan(1.1 * size);
    await assembly.close();
  });
});

describe('inspect predicts the peak memory of training', () => {
  const dir = mkdtempSync(join(tmpdir(), 'onnx-alora-memory-'));
  afterAll(() => rmSync(dir, { recursive: true }));
  beforeAll(() => {
    // 20 M parameters in the shape of GPT-2, random; the tokenizer's ids are below its vocabulary.
    writeGpt2(join(dir, 'model'), { ...gpt2Config, n_embd: 384, n_head: 6, n_layer: 8, vocab_size: 16000 });
    for (const file of ['tokenizer.json', 'tokenizer_config.json'])
      cpSync(resolve('fixtures/models/gpt2', file), join(dir, 'model', file));
    const row = JSON.stringify({ text: 'the cat sat on a mat and ran '.repeat(20) });
    put(dir, 'rows.jsonl', `${row}\n`.repeat(24));
  });

  it.each([
    [false, 'float32'],
    [true, 'float32'],
    [false, 'int8'],
  ])('within 15 % (recompute: %s, compute: %s)', async (recompute, compute) => {
    put(
      dir,
      'run.yaml',
      `model: {path: model, compute: ${compute}}
data: {task: text, train: rows.jsonl, dev: rows.jsonl, maxLength: 64, maxRows: {dev: 12}}
budget: {rank: 8}
train: {steps: 2, batchSize: 12, warmup: 0, evalEvery: 0, checkpointEvery: 0, sample: false, recompute: ${recompute}}
runtime: {threads: 1}
output: out-${recompute}-${compute}
`,
    );
    expect((await run(dir, ['train', 'run.yaml'])).code).toBe(0);
    const { peakMemory } = JSON.parse(
      readFileSync(join(dir, `out-${recompute}-${compute}`, 'result.json'), 'utf8'),
    );
    const flags = [
      '--rows',
      '12',
      '--length',
      '64',
      '--compute',
      compute,
      ...(recompute ? ['--recompute'] : []),
      '--json',
    ];
    const { memory } = JSON.parse((await run(dir, ['inspect', 'model', ...flags])).stdout);
    expect(Math.abs(memory.total / peakMemory - 1)).toBeLessThan(0.15);
  });
});
