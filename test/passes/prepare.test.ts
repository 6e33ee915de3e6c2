import { describe, expect, it } from 'vitest';
import { readModel } from '../../src/onnx/decode.ts';
import { prepareForTraining } from '../../src/passes/index.ts';
import { feedsFor, fixtures, lengthsOf, run, scaledError, toFloat32 } from './models.ts';

describe('prepareForTraining', () => {
  it.each(fixtures)('%s: every value typed, the outputs of the file', async (name, path) => {
    const original = readModel(path);
    const lengths = lengthsOf(original);
    const outputs = original.graph.outputs
      .map((value) => value.name)
      .filter((output) => !/^present/.test(output));
    const model = readModel(path);
    prepareForTraining(model, { outputs });
    const { graph } = model;
    const untyped = graph.nodes
      .flatMap((node) => node.outputs)
      .filter((value) => value && (!value.dtype || !value.shape || value.shape.includes(null)));
    expect(untyped.map((value) => `${value!.producer?.op} ${value!.name} ${value!.shape}`)).toEqual([]);
    expect(graph.inputs.filter((value) => /^past/.test(value.name))).toEqual([]);

    const feeds = feedsFor(original.graph.inputs, lengths);
    const expected = await run(path, feeds);
    const actual = await run(model, feeds);
    for (const output of outputs) {
      // float32: equal, or apart by which fusions ONNX Runtime then finds (3e-7 seen). float16: the file rounds
      // activations to 11 bits, 5e-4 each, and the prepared graph does not.
      const tolerance = name.includes('fp16') ? 2e-3 : 1e-6;
      expect(scaledError(toFloat32(actual[output]!), toFloat32(expected[output]!))).toBeLessThan(tolerance);
    }
  });

  it('takes the lengths of all inputs of a sequence to be equal, whatever an exporter calls them', () => {
    const [, path] = fixtures.find(([name]) => name === 'bert/model.onnx')!;
    const model = readModel(path);
    const { graph } = model;
    graph.findInput('input_ids')!.shape = [null, null];
    graph.findInput('attention_mask')!.shape = ['unk__1', 'unk__2'];
    prepareForTraining(model, { outputs: ['logits'] });
    for (const input of graph.inputs) expect(input.shape).toEqual(['batch_size', 'sequence_length']);
    expect(graph.nodes.flatMap((node) => node.outputs).filter((v) => v!.shape?.includes(null))).toEqual([]);
  });
});
