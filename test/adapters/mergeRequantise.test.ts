import { cpSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { requantise } from '../../src/adapters/mergeRequantise.ts';
import { readPeft } from '../../src/adapters/peft.ts';
import { dequantised, gridOf, type QuantGrid } from '../../src/adapters/quantGrid.ts';
import { placesOf } from '../../src/adapters/quantisedFile.ts';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import { readModel } from '../../src/onnx/decode.ts';
import * as strategies from '../../src/strategies.ts';
import { openModel } from '../../src/training/assemble.ts';
import fc from '../fastCheck.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-requantise-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const model = 'fixtures/backbones/smollm';
const adapter = `${model}/adapter`;
const files = [
  'model_q4',
  'model_q4_qdq',
  'model_genai_q4',
  'model_q4f16',
  'model_quantized',
  'model_int8',
  'decoder_model_merged_quantized',
];

function folderOf(file: string): string {
  const folder = join(scratch, file);
  cpSync(`${model}/config.json`, join(folder, 'config.json'));
  cpSync(`${model}/onnx/${file}.onnx`, join(folder, `onnx/${file}.onnx`));
  for (const part of ['tokenizer.json', 'tokenizer_config.json'])
    cpSync(join('fixtures/models/gpt2', part), join(folder, part));
  return folder;
}

const gridsOf = (path: string) =>
  placesOf(readModel(path), { model_type: 'llama' }).flatMap(({ module }) => {
    const grid = module.role === 'linear' ? gridOf(module) : undefined;
    return grid ? [[module.name, grid] as const] : [];
  });

describe('merge with requantise', () => {
  it.each(files)('%s: stays as small, and comes near model and adapter', async (file) => {
    const folder = folderOf(file);
    const out = join(scratch, `${file}-merged`);
    const options = { adapter, model: folder, threads: 1 };
    const result = await mergeModel({ ...options, out, requantise: true });
    expect(result.branched).toEqual([]);
    expect(result.requantised.map((entry) => entry.file)).toEqual([`onnx/${file}.onnx`]);
    const size = (path: string) => statSync(join(path, `onnx/${file}.onnx`)).size;
    expect(Math.abs(size(out) / size(folder) - 1)).toBeLessThan(0.02);
    // Measured on these random weights: 2.9 with 4 bits, 0.7 with 8, beside logits of 5 and more.
    const { maxDelta } = result.verification[0]!;
    expect(maxDelta).toBeLessThan(/q4/.test(file) ? 4 : 1);
    // The nearest numbers of each grid to W + s A B.
    const before = new Map(gridsOf(join(folder, `onnx/${file}.onnx`)));
    expect(before.size).toBe(14);
    const { modules } = readPeft(adapter);
    for (const [name, grid] of gridsOf(join(out, `onnx/${file}.onnx`))) {
      const weights = modules.get(name)!;
      const old = dequantised(before.get(name)!);
      const now = dequantised(grid);
      const error = (from: Float32Array) =>
        from.reduce((sum, value, i) => {
          const [row, column] = [Math.floor(i / grid.columns), i % grid.columns];
          const [x, y] = grid.layout === 'in-out' ? [row, column] : [column, row];
          let delta = 0;
          for (let r = 0; r < weights.rank; r++)
            delta += weights.scale * weights.A[r * weights.in + x]! * weights.B[r * weights.out + y]!;
          return sum + (value - old[i]! - delta) ** 2;
        }, 0);
      // The old numbers are of the grid, so the nearest ones are nearer.
      expect(error(now)).toBeLessThan(error(old));
    }
    // It loads like any other file.
    openModel({ path: out }).workspace.close();
  });

  it('measures the dev loss with rows of a run', async () => {
    const folder = folderOf('model_quantized');
    const rows = join(scratch, 'rows.jsonl');
    writeFileSync(
      rows,
      ['one two', 'the cat sat', 'a dog'].map((text) => JSON.stringify({ text })).join('\n'),
    );
    const data = resolveRunConfig(
      {
        model: { path: folder },
        data: { task: 'text', train: rows, dev: rows, maxLength: 16 },
        adapter: { strategy: 'lora' },
        train: { steps: 1 },
        runtime: { threads: 1 },
        output: join(scratch, 'unwritten'),
      },
      { strategies },
    );
    const out = join(scratch, 'measured');
    const { devLoss } = await mergeModel({ adapter, model: folder, out, requantise: true, data, threads: 1 });
    const [{ base, adapted, merged }] = devLoss as [(typeof devLoss)[number]];
    expect(Math.abs(adapted - base)).toBeGreaterThan(0.05);
    expect(Math.abs(merged - adapted)).toBeLessThan(0.5 * Math.abs(adapted - base));
  });

  it('gives a form that it cannot write its branch, where it lies beside one that it can', async () => {
    const folder = folderOf('model_q4');
    cpSync(`${model}/onnx/model_bnb4.onnx`, join(folder, 'onnx/model_bnb4.onnx'));
    const out = join(scratch, 'beside');
    const merged = await mergeModel({ adapter, model: folder, out, requantise: true, threads: 1 });
    expect(merged.requantised.map(({ file }) => file)).toEqual(['onnx/model_q4.onnx']);
    expect(merged.branched.map(({ file }) => file)).toEqual(['onnx/model_bnb4.onnx']);
    expect(merged.warnings).toEqual([
      expect.stringMatching(/^onnx\/model_bnb4\.onnx cannot be .*MatMulBnb4/),
    ]);
    expect(merged.verification.map(({ file }) => file).sort()).toEqual([
      'onnx/model_bnb4.onnx',
      'onnx/model_q4.onnx',
    ]);
  });

  it('refuses a form that it cannot write', async () => {
    const options = { adapter, model: folderOf('model_bnb4'), out: join(scratch, 'refused'), threads: 1 };
    await expect(mergeModel({ ...options, requantise: true })).rejects.toMatchObject({
      code: 'MODEL_REQUANTISE',
    });
  });
});

describe('requantise', () => {
  it('leaves numbers of the grid as they are, and others within half a step', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: -127, max: 127 }), { minLength: 8, maxLength: 8 }),
        fc.array(fc.double({ min: -0.4, max: 0.4, noNaN: true }), { minLength: 8, maxLength: 8 }),
        fc.boolean(),
        (q, noise, noisy) => {
          const scales = Float32Array.of(0.5, 0.25);
          let stored: { q: number[]; scales: number[] } | undefined;
          const grid = {
            q,
            scales,
            zeros: [0, 0],
            group: (i: number) => i % 2,
            lowest: -128,
            highest: 127,
            freeZeros: false,
            round: Math.fround,
            store: (integers: ArrayLike<number>, steps: ArrayLike<number>) => {
              stored = { q: Array.from(integers), scales: Array.from(steps) };
            },
          } as unknown as QuantGrid;
          const values = q.map((value, i) => (value + (noisy ? noise[i]! : 0)) * scales[i % 2]!);
          requantise(grid, values);
          values.forEach((value, i) => {
            const step = stored!.scales[i % 2]!;
            expect(Math.abs(stored!.q[i]! * step - value)).toBeLessThanOrEqual(
              (0.5 + 1e-6) * Math.max(step, 0.5),
            );
          });
          if (!noisy) expect(stored!.q.map((value, i) => value * stored!.scales[i % 2]!)).toEqual(values);
        },
      ),
    );
  });
});
