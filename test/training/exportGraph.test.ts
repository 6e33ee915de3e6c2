import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exportGraph, exportInferenceGraph } from 'onnx-alora';
import { afterAll, describe, expect, it } from 'vitest';
import { readModel } from '../../src/onnx/decode.ts';

const fixtures = join(import.meta.dirname, '../../fixtures');
const run = (name: string) => ({
  model: { path: join(fixtures, 'models', name) },
  data: { task: 'text', train: join(fixtures, 'traces', 'text.jsonl'), maxLength: 32 },
  adapter: { strategy: 'lora' },
  budget: { rank: 2 },
  train: { steps: 2 },
  output: join(scratch, 'unused'),
});

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-graph-'));
afterAll(() => rmSync(scratch, { recursive: true }));

describe('the exported training graph', () => {
  it.each(['llama', 'gpt2'])('of %s needs no operator outside ai.onnx', async (name) => {
    const out = join(scratch, name);
    await exportGraph(run(name), { out });
    for (const file of ['step.onnx', 'gate-gradients.onnx']) {
      const { graph } = readModel(join(out, file));
      expect(graph.nodes.length).toBeGreaterThan(50);
      expect(graph.nodes.filter(({ domain }) => domain !== '').map(({ op }) => op)).toEqual([]);
    }
  });

  it('is not there at all when something is wrong, so that the next attempt finds the folder free', async () => {
    const [missing, empty] = [join(scratch, 'missing'), join(scratch, 'empty')];
    mkdirSync(empty);
    // It may be a working directory.
    const { ino } = statSync(empty);
    const broken = { ...run('llama'), budget: { parameters: 1 } };
    for (const out of [missing, empty]) await expect(exportGraph(broken, { out })).rejects.toBeDefined();
    expect(existsSync(missing)).toBe(false);
    expect(readdirSync(empty)).toEqual([]);
    expect(statSync(empty).ino).toBe(ino);
    const other = 'fixtures/peft/adapters/gpt2-lora';
    const serving = {
      model: { path: 'fixtures/models/llama', targets: 'all-linear' as const },
      out: missing,
    };
    await expect(exportInferenceGraph({ ...serving, adapters: [other] })).rejects.toBeDefined();
    expect(existsSync(missing)).toBe(false);
  });
});
