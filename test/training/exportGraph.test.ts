import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exportGraph } from 'onnx-alora';
import { afterAll, describe, expect, it } from 'vitest';
import { readModel } from '../../src/onnx/decode.ts';

const fixtures = join(import.meta.dirname, '../../fixtures');
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-graph-'));
afterAll(() => rmSync(scratch, { recursive: true }));

describe('the exported training graph', () => {
  it.each(['llama', 'gpt2'])('of %s needs no operator outside ai.onnx', async (name) => {
    const out = join(scratch, name);
    await exportGraph(
      {
        model: { path: join(fixtures, 'models', name) },
        data: { task: 'text', train: join(fixtures, 'traces', 'text.jsonl'), maxLength: 32 },
        adapter: { strategy: 'lora' },
        budget: { rank: 2 },
        train: { steps: 2 },
        output: join(scratch, 'unused'),
      },
      { out },
    );
    for (const file of ['step.onnx', 'gate-gradients.onnx']) {
      const { graph } = readModel(join(out, file));
      expect(graph.nodes.length).toBeGreaterThan(50);
      expect(graph.nodes.filter(({ domain }) => domain !== '').map(({ op }) => op)).toEqual([]);
    }
  });
});
