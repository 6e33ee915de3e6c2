import * as ort from 'onnxruntime-node';
import { Builder } from '../../src/onnx/builder.ts';
import type { Model } from '../../src/onnx/graph.ts';
import type { Feeds } from './models.ts';

/** Adds x -> x + (x A^T * gate) B beside every product with a constant matrix, as strategies do. */
export function adapt(model: Model, gateShape: 'rank' | 'example', feeds: Feeds): void {
  const { graph } = model;
  const make = new Builder(graph, 'adapter');
  const random = (dims: number[]) =>
    new ort.Tensor(
      'float32',
      Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i * 1.7 + dims[0]!)),
      dims,
    );
  const products = graph.nodes.filter(
    (node) => /^(MatMul|Gemm)$/.test(node.op) && node.inputs[1]?.initializer?.dims.length === 2,
  );
  products.forEach((node, i) => {
    const x = node.inputs[0]!;
    const y = node.output;
    if (graph.outputs.includes(y)) return;
    const [width, out] = [x.shape!.at(-1) as number, y.shape!.at(-1) as number];
    // A Gemm sees [batch*length, in], where a gate per example cannot be told apart.
    const perExample = gateShape === 'example' && x.shape!.length === 3;
    const add = (name: string, shape: (number | string)[], dims: number[]) => {
      feeds[name] = random(dims);
      return graph.input(name, 'float32', shape);
    };
    const a = add(`a${i}`, [`r${i}`, width], [3, width]);
    const b = add(`b${i}`, [`r${i}`, out], [3, out]);
    const gate = perExample
      ? add(`g${i}`, [x.shape![0]!, 1, `r${i}`] as string[], [2, 1, 3])
      : add(`g${i}`, [`r${i}`], [3]);
    const u = make.op('MatMul', [x, make.op('Transpose', [a], { attributes: { perm: [1, 0] } })]);
    const scaled = make.op('Mul', [u, make.op('Mul', [gate, make.scalar(0.1)])]);
    const sum = make.op('Add', [y, make.op('MatMul', [scaled, b])]);
    graph.replaceUses(y, sum, new Set([sum.producer!]));
  });
}
