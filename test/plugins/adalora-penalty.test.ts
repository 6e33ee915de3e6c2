import type { Budget } from 'onnx-alora/strategy';
import { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node';
import { expect, it } from 'vitest';
import { adalora } from '../../plugins/adalora/index.ts';
import { openRewriter } from '../../src/adapters/rewriter.ts';
import { differentiate } from '../../src/autodiff/differentiate.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { encodeModel } from '../../src/onnx/encode.ts';
import { Graph } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { modulesOf } from './fakeHost.ts';

/** The penalty of one module of 2 x 2, and its gradients. */
async function penaltySession() {
  const [module] = modulesOf([[2, 2]]);
  const graph = new Graph();
  const builder = new Builder(graph, '/base');
  const input = graph.input('x', 'float32', ['n', 2]);
  const weight = builder.constant('W', Tensor.float32(new Float32Array(4), [2, 2]));
  const output = builder.op('MatMul', [input, weight], { dtype: 'float32', shape: ['n', 2] });
  const budget: Budget = { parameters: 8, rank: 2, at: 'final' };
  const options = adalora.options.parse({});
  const session = openRewriter(
    graph,
    new Map([[module!, [{ input, output, weight: { value: weight, layout: 'in-out' } }]]]),
    { budget },
  );
  const injection = session.injectAt(module!, (rewriter) => adalora.inject(rewriter, module!, options));
  const penalty = adalora.penalty!(session.rewriter, [injection], options)!;
  const [a, b] = ['lora_A', 'lora_B'].map((role) => injection.parameters.get(role)!);
  const gradients = differentiate(graph, penalty, [a!, b!], { opset: 17 });
  graph.outputs = [penalty, gradients.get(a!)!, gradients.get(b!)!];
  const names = graph.outputs.map((value) => value.name);
  const running = await InferenceSession.create(
    encodeModel({ irVersion: 8, opsets: new Map([['', 17]]), graph, producer: 'test', metadata: new Map() }),
  );
  return async (rowsA: number[], rowsB: number[]) => {
    const matrix = (rows: number[]) => new OrtTensor('float32', rows, [rows.length / 2, 2]);
    const feeds: Record<string, OrtTensor> = { [a!.name]: matrix(rowsA), [b!.name]: matrix(rowsB) };
    for (const name of running.inputNames)
      feeds[name] ??=
        name === 'x'
          ? new OrtTensor('float32', [1, 1], [1, 2])
          : new OrtTensor('float32', new Float32Array(rowsA.length / 2), [rowsA.length / 2]);
    const outputs = await running.run(feeds);
    return names.map((name) => [...(outputs[name]!.data as Float32Array)]);
  };
}

it('the penalty of AdaLoRA is the mean distance from orthogonal rows, with gradient 0 where that is 0', async () => {
  const run = await penaltySession();
  // ||A A^T - I|| = 3, ||B B^T - I|| = 0: weight 0.1 times 1.5. dA = 0.1/2 * 2 C A / 3, C = diag(0, 3).
  const [penalty, dA, dB] = await run([1, 0, 0, 2], [1, 0, 0, 1]);
  expect(Math.abs(penalty![0]! - 0.15)).toBeLessThan(1e-7);
  dA!.forEach((value, i) => {
    expect(Math.abs(value - [0, 0, 0, 0.2][i]!)).toBeLessThan(1e-7);
  });
  expect(dB).toEqual([0, 0, 0, 0]);
  expect(await run([], [])).toEqual([[0], [], []]);
});
