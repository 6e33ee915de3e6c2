import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import * as strategies from '../../src/strategies.ts';
import { trainRun } from '../../src/training/train.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-max-length-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const model = join(scratch, 'model');
cpSync('fixtures/models/gpt2', model, { recursive: true });
const config = JSON.parse(readFileSync(join(model, 'config.json'), 'utf8'));
writeFileSync(join(model, 'config.json'), JSON.stringify({ ...config, n_positions: 24 }));

const run = (output: string, maxLength?: number) =>
  resolveRunConfig(
    {
      model: { path: model },
      data: { task: 'text', train: 'fixtures/traces/text.jsonl', ...(maxLength ? { maxLength } : {}) },
      adapter: { strategy: 'lora' },
      budget: { rank: 1 },
      train: { steps: 2, batchSize: 4, warmup: 0, sample: false },
      runtime: { threads: 1 },
      output: join(scratch, output),
    },
    { strategies },
  );

it("the default of data.maxLength shrinks to the model's longest input, with a note; a given one is refused", async () => {
  const warnings: string[] = [];
  const reporters = [{ onWarning: (message: string) => warnings.push(message) }];
  await trainRun(run('default'), { strategies, reporters });
  expect(warnings.join(' ')).toContain('data.maxLength is 24');
  expect(readFileSync(join(scratch, 'default/run.yaml'), 'utf8')).toContain('maxLength: 24');
  const resumed = await trainRun(run('default'), { strategies, resume: true });
  expect(resumed.steps).toBe(2);
  await expect(trainRun(run('given', 128), { strategies })).rejects.toMatchObject({
    code: 'CONFIG_MAX_LENGTH',
  });
});
