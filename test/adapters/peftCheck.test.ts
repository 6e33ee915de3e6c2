import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { separateAdapter } from '../../src/adapters/packAdapter.ts';
import { type PeftAdapter, readPeft } from '../../src/adapters/peft.ts';
import { writePeft } from '../../src/adapters/peftWriter.ts';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { randomStream } from '../../src/random.ts';
import { type Batch, configOf, largestDifference, logitsOf, withAdapter } from './original.ts';
import { packLlama } from './packedLlama.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-peft-check-'));
afterAll(() => {
  rmSync(scratch, { recursive: true });
  if (process.env.UPDATE_PEFT) writeFileSync(golden, `${JSON.stringify(checked)}\n`);
});

/**
 * What PEFT made of these very bytes. `ONNX_ALORA_PYTHON=<a Python with torch, transformers, peft> UPDATE_PEFT=1
 * npx vitest run test/adapters/peftCheck` asks it again; the script fails when PEFT misses a tensor or has no use for one.
 */
const golden = 'fixtures/peft/checked.json';
interface Checked {
  readonly sha256: string;
  readonly logits: readonly number[];
}
const checked: Record<string, Checked> = existsSync(golden) ? JSON.parse(readFileSync(golden, 'utf8')) : {};

const batch: Batch = {
  input_ids: [
    [5, 9, 2, 44, 17],
    [7, 7, 31, 8, 3],
  ],
  attention_mask: [
    [1, 1, 1, 1, 1],
    [1, 1, 1, 1, 1],
  ],
};

/** PEFT's logits of the original model with the adapter that was written to scratch under this name. */
function peftLogits(name: string, model: string): readonly number[] {
  const folder = join(scratch, name);
  if (process.env.UPDATE_PEFT) checked[name] = askPeft(model, folder, batch);
  expect(hashOf(folder)).toBe(checked[name]?.sha256);
  return checked[name]!.logits;
}

// Two implementations of a two-layer model in float32, logits of size 1 to 10.
const tolerance = 2e-5;

describe('what PEFT makes of our adapter folders', () => {
  it.each([
    ['gpt2', randomAdapter('gpt2', 'CAUSAL_LM', true)],
    ['llama', randomAdapter('llama', 'CAUSAL_LM', false)],
    ['bert', readPeft('fixtures/peft/adapters/bert-head')],
  ])('%s: PeftModel.from_pretrained gives our logits', async (name, adapter) => {
    const model = `fixtures/models/${name}`;
    writePeft(join(scratch, name), adapter);
    const theirs = peftLogits(name, model);
    const ours = await logitsOf(withAdapter(`${model}/onnx/model.onnx`, configOf(model), adapter), batch);
    expect(largestDifference(ours, theirs)).toBeLessThan(tolerance);
  });

  it('llama, adapted where its exporter packed layers: PEFT loads the layers of the original', async () => {
    const model = 'fixtures/models/llama';
    const config = configOf(model);
    const packed = join(
      packLlama(join(scratch, 'packed'), ['attn/qkv_proj', 'mlp/gate_up_proj']),
      'onnx/model.onnx',
    );
    const adapter = randomAdapter('llama', 'CAUSAL_LM', false, packed);
    const modules = findLinearModules(readModel(packed), config);
    expect([...adapter.modules.keys()].filter((name) => /qkv_proj|gate_up_proj/.test(name))).toHaveLength(4);
    writePeft(join(scratch, 'llama-packed'), separateAdapter(adapter, modules, config));
    const theirs = peftLogits('llama-packed', model);
    const ours = await logitsOf(withAdapter(packed, config, adapter), batch);
    expect(largestDifference(ours, theirs)).toBeLessThan(tolerance);
  });
});

/** Of both files, as they are on the disk. */
function hashOf(folder: string): string {
  const hash = createHash('sha256');
  for (const file of ['adapter_model.safetensors', 'adapter_config.json'])
    hash.update(readFileSync(join(folder, file)));
  return hash.digest('hex');
}

function askPeft(model: string, folder: string, batch: Batch): Checked {
  const [input, output] = [join(scratch, 'batch.json'), join(scratch, 'logits.json')];
  writeFileSync(input, JSON.stringify(batch));
  const script = 'fixtures/peft/check_adapter.py';
  execFileSync(process.env.ONNX_ALORA_PYTHON ?? 'python3', [script, model, folder, input, output]);
  return { sha256: hashOf(folder), logits: JSON.parse(readFileSync(output, 'utf8')).logits };
}

/** Ranks from 0 to 5, gates, and a scale that no common alpha expresses. */
function randomAdapter(
  name: string,
  taskType: string,
  fanInFanOut: boolean,
  file = `fixtures/models/${name}/onnx/model.onnx`,
): PeftAdapter {
  const folder = `fixtures/models/${name}`;
  const modules = findLinearModules(readModel(file), configOf(folder));
  const random = randomStream(0, name);
  const normal = (count: number) => Float32Array.from({ length: count }, () => 0.2 * random.normal());
  return {
    modules: new Map(
      modules
        .filter(({ role }) => role === 'linear')
        .map((module, i) => {
          const rank = i % 6;
          const { in: width, out } = module;
          const factors = {
            A: normal(rank * width),
            B: normal(rank * out),
            gate: normal(rank).map((g) => g + 1),
          };
          return [module.name, { rank, in: width, out, scale: i % 2 ? 2 : 12 / (4 + 1e-5), ...factors }];
        }),
    ),
    saved: new Map(),
    modulesToSave: [],
    baseModel: folder,
    taskType,
    fanInFanOut,
  };
}
