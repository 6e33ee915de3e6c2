import { crossEntropy } from '../src/autodiff/crossEntropy.ts';
import { Builder } from '../src/onnx/builder.ts';
import { Graph, type Model, type Value } from '../src/onnx/graph.ts';
import { Tensor } from '../src/onnx/tensor.ts';

/** Writes operators that take inputs and weights. */
export class Draft {
  readonly graph = new Graph();
  private readonly make = new Builder(this.graph, '');

  input(...dims: number[]): Value {
    return this.graph.input(`x${this.graph.inputs.length}`, 'float32', dims);
  }
  weight(...dims: number[]): Value {
    const values = new Float32Array(dims.reduce((a, b) => a * b, 1)).map((_, i) => 0.02 * Math.sin(i));
    return this.make.constant('weight', Tensor.float32(values, dims));
  }
  op(
    op: string,
    inputs: readonly Value[],
    attributes: Record<string, number | string | number[]> = {},
    domain = '',
  ) {
    return this.make.op(op, inputs, { attributes, domain, dtype: 'float32' });
  }
  /** Pieces of these lengths. */
  split(value: Value, lengths: readonly number[], axis: number): Value[] {
    const inputs = [value, this.make.ints(lengths)];
    return this.make.node('Split', inputs, lengths.length, { attributes: { axis } }).outputs as Value[];
  }
  /** Rows from `from` to `to`. */
  rows(value: Value, from: number, to: number): Value {
    const { dtype } = value;
    const bounds = [from, to, 0].map((bound) => this.make.ints([bound]));
    const shape = [to - from, ...value.shape!.slice(1)];
    return this.make.op('Slice', [value, ...bounds], { dtype, shape });
  }
  /** The rows of a value in another order. */
  reordered(value: Value, order: readonly number[]): Value {
    return this.op('Gather', [value, this.make.ints(order)]);
  }
  reshape(value: Value, dims: readonly number[]): Value {
    return this.op('Reshape', [value, this.make.ints(dims)]);
  }
  /** Losses of rows, and the gradient of their sum with respect to the hidden state, under an output embedding. */
  loss(hidden: Value, embedding: Value, targets: Value): readonly [Value, Value] {
    const float = { dtype: 'float32', shape: [hidden.shape![0]!, embedding.shape![0]!] } as const;
    const logits = this.make.op('Gemm', [hidden, embedding], { attributes: { transB: 1 }, ...float });
    const { nll, dLogits } = crossEntropy(this.make, logits, targets, 20);
    return [nll, this.op('Gemm', [dLogits(), embedding])];
  }
}

/** A model of what `write` returns. */
export function draftModel(write: (draft: Draft) => readonly Value[]): Model {
  const draft = new Draft();
  const outputs = write(draft);
  for (const value of outputs) {
    value.dtype = 'float32';
    value.shape = null;
  }
  draft.graph.outputs = [...outputs];
  const opsets = new Map([
    ['', 20],
    ['com.microsoft', 1],
  ]);
  return { irVersion: 9, opsets, graph: draft.graph, producer: 'bench', metadata: new Map() };
}
