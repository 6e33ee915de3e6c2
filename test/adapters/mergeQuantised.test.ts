import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readPeft } from '../../src/adapters/peft.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { openModel } from '../../src/training/assemble.ts';
import { openAdapted } from '../../src/training/openAdapted.ts';
import { toFloat32 } from '../passes/models.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-branches-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const model = 'fixtures/backbones/smollm';
const adapter = `${model}/adapter`;
const quantised = [
  'model_q4',
  'model_q4_qdq',
  'model_genai_q4',
  'model_bnb4',
  'model_int8',
  'model_q4f16',
  'model_quantized',
  'decoder_model_merged_quantized',
];

/** Two rows of eight tokens. */
const ids = Array.from({ length: 16 }, (_, i) => (i * 37) % 128);
const batch = {
  size: 2,
  length: 8,
  inputIds: BigInt64Array.from(ids, BigInt),
  attentionMask: new BigInt64Array(16).fill(1n),
  positionIds: BigInt64Array.from(ids, (_, i) => BigInt(i % 8)),
  rows: BigInt64Array.from(ids, (_, i) => BigInt(i)),
  targets: new BigInt64Array(16),
};

/** What the training graph computes with the adapter, all fused operators taken apart. */
async function trained(file: string): Promise<Float32Array> {
  const opened = openModel({ path: model, file });
  const { runtime } = openAdapted(opened, { device: 'cpu', threads: 1, adapter });
  const logits = await runtime.logits(batch);
  await runtime.close();
  opened.workspace.close();
  return logits;
}

/** The file as ONNX Runtime runs it: integer kernels, no cache. */
async function served(path: string): Promise<Float32Array> {
  // Otherwise blocked DequantizeLinear becomes a product that rounds activations to 8 bits.
  const extra = { session: { qdq_matmulnbits_accuracy_level: '0' } };
  const session = await ort.InferenceSession.create(path, { logSeverityLevel: 3, extra });
  const feeds: Record<string, ort.Tensor> = {
    input_ids: new ort.Tensor('int64', batch.inputIds, [2, 8]),
    attention_mask: new ort.Tensor('int64', batch.attentionMask, [2, 8]),
    position_ids: new ort.Tensor('int64', batch.positionIds, [2, 8]),
    use_cache_branch: new ort.Tensor('bool', [false], [1]),
  };
  for (const name of session.inputNames)
    if (name.startsWith('past')) feeds[name] = new ort.Tensor('float32', [], [2, 1, 0, 16]);
  const { logits } = await session.run(
    Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]!])),
  );
  await session.release();
  return toFloat32(logits!).data as Float32Array;
}

const largestDifference = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);

describe('merging into quantised weights', () => {
  const out = join(scratch, 'merged');
  let result: Awaited<ReturnType<typeof mergeModel>>;
  beforeAll(async () => {
    const folder = join(scratch, 'model');
    for (const name of ['config.json', ...quantised.map((stem) => `onnx/${stem}.onnx`), 'onnx/model.onnx'])
      cpSync(join(model, name), join(folder, name));
    result = await mergeModel({ adapter, model: folder, out, threads: 1 });
  });

  it('keeps every weight of 4 and 8 bits and puts the adapter beside it', () => {
    expect(result.merged.map(({ file }) => file)).toEqual(['onnx/model.onnx']);
    expect(result.branched.map(({ file }) => file).sort()).toEqual(
      quantised.map((f) => `onnx/${f}.onnx`).sort(),
    );
    for (const { modules } of result.branched) expect(modules).toHaveLength(readPeft(adapter).modules.size);
    // Sums in another order; with activations of 8 bits that is a step of 1/255 where it meets a tie.
    for (const { file, maxDelta } of result.verification)
      expect(maxDelta, file).toBeLessThan(/quantized|f16/.test(file) ? 3e-2 : 1e-5);
    const small = (path: string) =>
      [...readModel(path).graph.initializers]
        .filter(({ initializer }) => /int(4|8)$/.test(initializer!.dtype))
        .map(({ name, initializer }) => [name, Buffer.from(initializer!.bytes()).toString('base64')]);
    for (const file of quantised)
      expect(small(join(out, `onnx/${file}.onnx`))).toEqual(small(join(model, `onnx/${file}.onnx`)));
  });

  it.each(quantised)('%s: ONNX Runtime computes what training computed', async (name) => {
    const logits = await served(join(out, `onnx/${name}.onnx`));
    const difference = largestDifference(logits, await trained(`onnx/${name}.onnx`));
    const base = largestDifference(logits, await served(join(model, `onnx/${name}.onnx`)));
    // The adapter itself moves logits by several units.
    expect(base).toBeGreaterThan(1);
    // Sums in another order; float16 activations here, float32 in training.
    expect(difference).toBeLessThan(/quantized|f16/.test(name) ? 5e-2 : 1e-4);
  });
});
