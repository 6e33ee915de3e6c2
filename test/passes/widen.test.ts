import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { Graph } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { fold } from '../../src/passes/fold.ts';
import { widen } from '../../src/passes/widen.ts';
import { fixtures, modelOf, run } from './models.ts';

describe('widen', () => {
  it('leaves no half precision in a float16 file', () => {
    const model = readModel(fixtures.find(([name]) => name === 'llama/model_fp16.onnx')![1]);
    expect(widen(model)).toBe(true);
    fold(model);
    const { graph } = model;
    const values = [...graph.inputs, ...graph.initializers, ...graph.nodes.flatMap((node) => node.outputs)];
    expect(values.filter((value) => value?.dtype === 'float16')).toEqual([]);
    expect(widen(model)).toBe(false);
  });

  it.each(['float16', 'bfloat16'] as const)(
    'computes in float32 with the values of %s weights',
    async (dtype) => {
      const graph = new Graph();
      const b = new Builder(graph, 'b');
      const x = graph.input('x', dtype, ['n', 2]);
      const weight = b.constant('w', Tensor.of(dtype, [0.1, -65504, 3, 1e-3], [2, 2]));
      const to = dtype === 'float16' ? 10 : 16;
      const wide = b.op('Cast', [b.op('MatMul', [x, weight])], { attributes: { to: 1 } });
      graph.outputs = [b.op('Cast', [b.op('Add', [wide, b.scalar(1)])], { attributes: { to } })];
      const model = modelOf(graph);
      const [a, , c, d] = weight.initializer!.toNumbers();
      const large = weight.initializer!.toNumbers()[1]!;
      widen(model);
      fold(model);
      expect(graph.inputs[0]!.dtype).toBe('float32');
      expect(graph.nodes.map((node) => node.op).filter((op) => op === 'Cast').length).toBeLessThanOrEqual(1);
      const result = await run(model, { x: new ort.Tensor('float32', Float32Array.of(1, 2), [1, 2]) });
      const y = Object.values(result)[0]!;
      expect(Array.from(y.data as Float32Array)).toEqual([
        Math.fround(Math.fround(a! + 2 * c!) + 1),
        Math.fround(Math.fround(large + 2 * d!) + 1),
      ]);
    },
  );

  it('does nothing to a float32 file', () => {
    expect(widen(readModel(fixtures.find(([name]) => name === 'gpt2/model.onnx')![1]))).toBe(false);
  });
});
