import type { Builder } from '../onnx/builder.ts';
import type { Dim, Value } from '../onnx/graph.ts';

/**
 * Lengths of values as int64 vectors. What the shapes know is constant or read off graph inputs, since reading it off
 * an activation would keep that alive until the backward pass needs the length. Each vector is made once.
 */
export class Lengths {
  private readonly ofValues = new Map<Value, Value>();
  private readonly ofShapes = new Map<string, Value>();
  private readonly ofNames = new Map<string, Value>();
  constructor(private readonly builder: Builder) {}

  /** All lengths of a value. */
  of(value: Value): Value {
    const { shape } = value;
    if (shape?.every((dim) => typeof dim === 'number')) return this.builder.ints(shape as number[]);
    if (!shape || this.builder.graph.inputs.includes(value)) return this.read(value);
    const key = JSON.stringify(shape);
    let vector = this.ofShapes.get(key);
    if (!vector) {
      const parts = shape.map((dim) => this.named(dim));
      if (!parts.every((part) => part !== undefined)) return this.read(value);
      vector =
        parts.length === 1
          ? parts[0]!
          : this.builder.op('Concat', parts, {
              name: 'lengths',
              attributes: { axis: 0 },
              dtype: 'int64',
              shape: [parts.length],
            });
      this.ofShapes.set(key, vector);
    }
    return vector;
  }

  /** The length of one axis, a vector of one element. */
  axis(value: Value, axis: number): Value {
    const dim = value.shape?.at(axis);
    return (dim === undefined ? undefined : this.named(dim)) ?? this.pick(this.read(value), axis);
  }

  /** A number, a named dimension of a graph input, or a product of such ('batch*length'); undefined for others. */
  private named(dim: Dim): Value | undefined {
    if (typeof dim === 'number') return this.builder.ints([dim]);
    if (dim === null) return undefined;
    let length = this.ofNames.get(dim) ?? this.productOf(dim);
    if (!length) {
      const source = this.builder.graph.inputs.find(
        (input) => !input.initializer && input.shape?.includes(dim),
      );
      if (!source) return undefined;
      length = this.pick(this.read(source), source.shape!.indexOf(dim));
      this.ofNames.set(dim, length);
    }
    return length;
  }

  private productOf(dim: string): Value | undefined {
    const factors = /^[\w.]+(\*[\w.]+)+$/.test(dim) ? dim.split('*') : [];
    const lengths = factors.map((factor) => this.named(/^\d+$/.test(factor) ? Number(factor) : factor));
    if (lengths.length === 0 || !lengths.every((length) => length !== undefined)) return undefined;
    const product = lengths.reduce((a, b) =>
      this.builder.op('Mul', [a, b], { name: 'lengths', dtype: 'int64', shape: [1] }),
    );
    this.ofNames.set(dim, product);
    return product;
  }

  private read(value: Value): Value {
    let vector = this.ofValues.get(value);
    if (!vector) {
      const shape = value.shape ? [value.shape.length] : null;
      vector = this.builder.op('Shape', [value], { name: 'lengths', dtype: 'int64', shape });
      this.ofValues.set(value, vector);
    }
    return vector;
  }

  private pick(vector: Value, index: number): Value {
    const attributes = { axis: 0 };
    const inputs = [vector, this.builder.ints([index])];
    return this.builder.op('Gather', inputs, { name: 'lengths', attributes, dtype: 'int64', shape: [1] });
  }
}
