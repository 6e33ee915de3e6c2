import { describe, expect, it } from 'vitest';
import { makeAdapterReady } from '../../src/inference/servingGraph.ts';
import { readModel } from '../../src/onnx/decode.ts';
import type { Model } from '../../src/onnx/graph.ts';
import { lowerings } from '../../src/passes/lower.ts';
import { findModel } from '../../src/runtime/modelDirectory.ts';
import { worthPacking } from '../../src/runtime/prepacking.ts';
import { openWorkspace, type Workspace } from '../../src/runtime/workspace.ts';
import { openDecoder } from '../../src/training/openDecoder.ts';

const folder = 'fixtures/backbones/smollm';

/** How often each fused operator stands in a graph. */
function fusedOperators({ graph }: Model): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { op, domain } of graph.nodes) {
    const name = domain === '' ? op : `${domain}.${op}`;
    if (name in lowerings || name === 'DynamicQuantizeLinear') counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

describe('generation keeps the fused operators of the file', () => {
  it.each(['model_genai', 'model_genai_q4', 'model_q4', 'model_bnb4', 'model_opset23', 'model_quantized'])(
    '%s',
    async (name) => {
      const file = `onnx/${name}.onnx`;
      const directory = findModel(folder, { file, purpose: 'generation' });
      const wanted = fusedOperators(readModel(directory.file));
      expect(Object.keys(wanted).length).toBeGreaterThan(0);

      // `generate`, samples and text metrics with an adapter.
      const own = openWorkspace();
      const written: Model[] = [];
      const workspace: Workspace = {
        ...own,
        write(graph, model) {
          written.push(model);
          return own.write(graph, model);
        },
      };
      const runtime = { device: 'cpu', threads: 1 } as const;
      const { decoder, close } = await openDecoder(directory, `${folder}/adapter`, workspace, runtime);
      expect(written.map(fusedOperators)).toEqual([wanted]);
      expect(decoder).toBeDefined();
      await close();
      own.close();

      // loadModel and `graph --inference`.
      const served = readModel(directory.file);
      makeAdapterReady([served], directory.config, 'all-linear');
      expect(fusedOperators(served)).toEqual(wanted);
    },
  );

  it('packs quantised products, which would be unpacked for every token, and nothing else', () => {
    const packing = (name: string, calls: 'batches' | 'tokens') =>
      worthPacking(readModel(`${folder}/onnx/${name}.onnx`).graph, calls);
    expect(packing('model_q4', 'tokens')).toBe(true);
    expect(packing('model_q4', 'batches')).toBe(true);
    expect(packing('decoder_model_merged_quantized', 'tokens')).toBe(true);
    expect(packing('decoder_model_merged_quantized', 'batches')).toBe(false);
    expect(packing('model_q4_qdq', 'tokens')).toBe(true);
    expect(packing('model_int8', 'tokens')).toBe(false);
    expect(packing('model', 'tokens')).toBe(false);
  });
});
