import { describe, expect, it } from 'vitest';
import { readModel } from '../../src/onnx/decode.ts';
import { keepOutputs } from '../../src/passes/prune.ts';
import { fixtures } from './models.ts';

const cached = () => readModel(fixtures.find(([name]) => name.startsWith('llama-kv'))![1]);

describe('keepOutputs', () => {
  it('drops the outputs that are not named and what only they need', () => {
    const { graph } = cached();
    const before = graph.nodes.length;
    keepOutputs(graph, ['logits']);
    expect(graph.outputs.map((value) => value.name)).toEqual(['logits']);
    expect(graph.nodes.length).toBeLessThanOrEqual(before);
    for (const constant of graph.initializers) expect(constant.users.size).toBeGreaterThan(0);
  });

  it('drops inputs that nothing reads', () => {
    const { graph } = cached();
    const key = graph.findInput('past_key_values.0.key')!;
    const concat = [...key.users].find((node) => node.op === 'Concat')!;
    keepOutputs(graph, [concat.output.name]);
    expect(graph.inputs).toContain(key);
    expect(graph.inputs.map((value) => value.name)).not.toContain('past_key_values.1.key');
  });

  it('names what it could have kept when an output does not exist', () => {
    const { graph } = cached();
    expect(() => keepOutputs(graph, ['logit'])).toThrowError(
      expect.objectContaining({
        code: 'MODEL_NO_OUTPUT',
        details: expect.objectContaining({ didYouMean: 'logits' }),
      }),
    );
  });
});
