import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type PeftAdapter, readPeft } from '../../src/adapters/peft.ts';
import { writePeft } from '../../src/adapters/peftWriter.ts';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { randomStream } from '../../src/random.ts';
import {
  type Batch,
  configOf,
  largestDifference,
  logitsOf,
  pythonWithPeft,
  withAdapter,
} from './original.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-peft-check-'));
afterAll(() => rmSync(scratch, { recursive: true }));
const python = pythonWithPeft();

describe.skipIf(!python)('what PEFT makes of our adapter folders (needs Python with PEFT)', () => {
  it.each([
    ['gpt2', randomAdapter('gpt2', 'CAUSAL_LM', true)],
    ['llama', randomAdapter('llama', 'CAUSAL_LM', false)],
    ['bert', readPeft('fixtures/peft/adapters/bert-head')],
  ])(
    '%s: PeftModel.from_pretrained gives our logits',
    async (name, adapter) => {
      const folder = `fixtures/models/${name}`;
      writePeft(join(scratch, name), adapter);
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
      writeFileSync(join(scratch, 'batch.json'), JSON.stringify(batch));
      const out = join(scratch, `${name}.json`);
      // The script fails when PEFT misses a tensor or finds one that it does not use.
      execFileSync(python!, [
        'fixtures/peft/check_adapter.py',
        folder,
        join(scratch, name),
        join(scratch, 'batch.json'),
        out,
      ]);
      const ours = await logitsOf(withAdapter(`${folder}/onnx/model.onnx`, configOf(folder), adapter), batch);
      // Two implementations of a two-layer model in float32, logits of size 1 to 10.
      expect(largestDifference(ours, JSON.parse(readFileSync(out, 'utf8')).logits)).toBeLessThan(2e-5);
    },
    120_000,
  );
});

/** Ranks from 0 to 5, gates, and a scale that no common alpha expresses. */
function randomAdapter(name: string, taskType: string, fanInFanOut: boolean): PeftAdapter {
  const folder = `fixtures/models/${name}`;
  const modules = findLinearModules(readModel(`${folder}/onnx/model.onnx`), configOf(folder));
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
