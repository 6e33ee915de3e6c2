import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { mergeAdapter } from '../../src/adapters/merge.ts';
import { readPeft } from '../../src/adapters/peft.ts';
import { writePeft } from '../../src/adapters/peftWriter.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { randomStream } from '../../src/random.ts';
import { findModel } from '../../src/runtime/modelDirectory.ts';
import { openWorkspace } from '../../src/runtime/workspace.ts';
import { openDecoder } from '../../src/training/openDecoder.ts';

const folder = 'fixtures/backbones/smollm';
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-saved-head-'));
afterAll(() => rmSync(scratch, { recursive: true }));

function adapterWith(name: string, saved: Readonly<Record<string, Tensor>>): string {
  const path = join(scratch, name);
  const adapter = readPeft(`${folder}/adapter`);
  writePeft(path, { ...adapter, saved: new Map(Object.entries(saved)), modulesToSave: ['lm_head', 'score'] });
  return path;
}

async function logitsOf(path: string, file: string, adapter?: string): Promise<Float32Array> {
  const workspace = openWorkspace();
  const runtime = { device: 'cpu', threads: 1 } as const;
  const directory = findModel(path, { file, purpose: 'generation' });
  try {
    const { decoder, close } = await openDecoder(directory, adapter, workspace, runtime);
    const [logits] = await decoder.start([[5, 9, 2, 44]]);
    await close();
    return logits!;
  } finally {
    workspace.close();
  }
}

describe('text generation with an output embedding that was trained in full', () => {
  const random = randomStream(0, 'lm_head');
  const weight = Tensor.float32(
    Float32Array.from({ length: 128 * 32 }, () => random.normal()),
    [128, 32],
  );

  it.each(['model', 'model_q4', 'decoder_model_merged_quantized'])(
    '%s: writes what the merged model writes',
    async (name) => {
      const file = `onnx/${name}.onnx`;
      const adapter = adapterWith(name, { 'lm_head.weight': weight });
      const out = join(scratch, `${name}-merged`);
      mergeAdapter(readPeft(adapter), folder, out, { files: [file] });
      const [served, merged] = [await logitsOf(folder, file, adapter), await logitsOf(out, file)];
      const base = await logitsOf(folder, file, `${folder}/adapter`);
      const apart = (a: Float32Array, b: Float32Array) =>
        a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
      expect(apart(served, base)).toBeGreaterThan(1);
      // Sums in another order; with activations of 8 bits that is a step of 1/255 where it meets a tie.
      expect(apart(served, merged)).toBeLessThan(/quantized/.test(name) ? 5e-2 : 1e-4);
    },
  );

  it('refuses a layer that the model does not have', async () => {
    const adapter = adapterWith('foreign', { 'score.weight': Tensor.float32([1, 2], [1, 2]) });
    await expect(logitsOf(folder, 'onnx/model.onnx', adapter)).rejects.toMatchObject({
      code: 'ADAPTER_MISMATCH',
    });
  });
});
