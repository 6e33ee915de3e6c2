import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, expect, it } from 'vitest';
import { exportGraph } from '../../src/index.ts';

const root = join(import.meta.dirname, '../..');
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-graph-'));
afterAll(() => rmSync(scratch, { recursive: true }));

it.each(['llama', 'gpt2'])('the trainer of docs/training-graph.md trains %s', async (model) => {
  const page = readFileSync(join(root, 'docs/training-graph.md'), 'utf8');
  const [, code] = /```js\n\/\/ plain-trainer\.mjs\n(.*?)```/s.exec(page)!;
  const program = join(scratch, 'plain-trainer.mjs');
  const runtime = createRequire(import.meta.url).resolve('onnxruntime-node');
  writeFileSync(program, code!.replace("'onnxruntime-node'", JSON.stringify(pathToFileURL(runtime).href)));
  const out = join(scratch, model);
  await exportGraph(
    {
      model: { path: join(root, 'fixtures/models', model) },
      data: { task: 'text', train: join(root, 'fixtures/traces/text.jsonl'), maxLength: 32 },
      budget: { rank: 4 },
      train: { steps: 1 },
      output: join(scratch, 'unused'),
    },
    { out },
  );
  const printed = execFileSync(process.execPath, [program, out], { encoding: 'utf8' }).trim().split('\n');
  const losses = printed.map((line) => Number(line.split(' ')[1]));
  expect(losses).toHaveLength(20);
  // An untrained model of 128 tokens starts near ln 128 = 4.9; six tokens are soon known by heart.
  expect(losses.at(-1)).toBeLessThan(0.5 * losses[0]!);
});
