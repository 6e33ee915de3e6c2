import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import * as ort from 'onnxruntime-node';
import { afterAll, describe, expect, it } from 'vitest';
import { readSafetensors } from '../../src/adapters/safetensors.ts';
import { exportServing } from '../../src/inference/exportServing.ts';
import { run } from '../cli/builtCli.ts';
import { put } from '../cli/refusals.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-export-'));
afterAll(() => rmSync(scratch, { recursive: true }));

describe('the adapter-ready inference graph', () => {
  it.each([
    ['llama', 'llama-adalora'],
    ['gpt2', 'gpt2-lora'],
    ['bert', 'bert-head'],
  ])(
    "%s: plain ONNX Runtime, fed the manifest's inputs from an adapter file, gives PEFT's logits",
    async (name, adapter) => {
      const out = join(scratch, name);
      const source = `fixtures/peft/adapters/${adapter}`;
      const { files } = await exportServing({
        model: { path: `fixtures/models/${name}`, targets: 'all-linear' },
        out,
        adapters: [source],
      });
      expect(files).toContain(`adapters/${adapter}.safetensors`);
      const manifest = JSON.parse(readFileSync(join(out, 'manifest.json'), 'utf8'));
      const { batch, logits } = JSON.parse(readFileSync(`${source}/expected.json`, 'utf8'));
      const session = await ort.InferenceSession.create(join(out, manifest.graph), { logSeverityLevel: 3 });
      const feeds: Record<string, ort.Tensor> = {};
      for (const input of manifest.inputs) {
        const rows: number[][] =
          batch[input.name] ??
          batch.input_ids.map((row: number[]) => row.map((_, i) => (input.name === 'position_ids' ? i : 0)));
        feeds[input.name] = new ort.Tensor('int64', BigInt64Array.from(rows.flat(), BigInt), [
          rows.length,
          rows[0]!.length,
        ]);
      }
      const { tensors } = readSafetensors(join(out, manifest.adapters.files[0]));
      for (const [input, tensor] of tensors)
        feeds[input] = new ort.Tensor('float32', tensor.toFloat32(), [...tensor.dims]);
      const named = manifest.modules.flatMap((module: Record<string, { input: string }>) =>
        [module.lora_A, module.lora_B, module.bias].flatMap((input) => input?.input ?? []),
      );
      expect(new Set(tensors.keys())).toEqual(new Set(named));
      const ours = (await session.run(feeds)).logits!.data as Float32Array;
      await session.release();
      // Two implementations of a two-layer model in float32, logits of size 1 to 10; padding is PEFT's affair.
      const mask: number[] = batch.attention_mask.flat();
      const width = logits.length / (name === 'bert' ? batch.input_ids.length : mask.length);
      ours.forEach((value, i) => {
        const row = Math.floor(i / width);
        if (name === 'bert' || mask[row] === 1) expect(Math.abs(value - logits[i])).toBeLessThan(2e-5);
      });
    },
  );

  it('is written by the command line', async () => {
    put(
      scratch,
      'run.yaml',
      `model: {path: ${resolve('fixtures/models/llama')}, targets: [q_proj, v_proj, down_proj]}
data: {task: text, train: rows.jsonl}
`,
    );
    const adapter = resolve('fixtures/peft/adapters/llama-pattern');
    const args = ['graph', 'run.yaml', '--inference', '--adapter', adapter, '--out', 'served'];
    const { code, stdout, stderr } = await run(scratch, args);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(
      /wrote served\/adapters\/llama-pattern\.safetensors\n(.*\n)*wrote served\/model\.onnx\n/,
    );
    expect(JSON.parse(readFileSync(join(scratch, 'served/manifest.json'), 'utf8')).modules).toHaveLength(6);
  });

  it('refuses a folder that holds something', async () => {
    const options = {
      model: { path: 'fixtures/models/llama', targets: ['q_proj'] },
      out: join(scratch, 'taken'),
    };
    await exportServing(options);
    await expect(exportServing(options)).rejects.toMatchObject({ code: 'OUTPUT_EXISTS' });
  });
});
