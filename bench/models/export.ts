import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { attribute } from '../../src/onnx/builder.ts';
import { writeModel } from '../../src/onnx/encode.ts';
import { type AttributeInit, type Dim, Graph, Node, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';

/**
 * Writes a graph as torch.onnx.export would: nodes `/scope/Op`, outputs `/scope/Op_output_0`, constants with the
 * parameter's name where the exporter keeps it and `onnx::MatMul_n` where it transposes. Weights are random.
 */
export class TorchExport {
  readonly graph = new Graph('main_graph');
  private readonly counts = new Map<string, number>();
  private folded = 0;
  private state = 0x9e3779b9;

  op(
    scope: string,
    op: string,
    inputs: readonly Value[],
    attributes: Record<string, AttributeInit> = {},
  ): Value {
    return this.node(scope, op, inputs, 1, attributes)[0]!;
  }

  node(
    scope: string,
    op: string,
    inputs: readonly Value[],
    outputs: number,
    attributes: Record<string, AttributeInit> = {},
  ): Value[] {
    const base = `/${scope}${scope ? '/' : ''}${op}`;
    const count = this.counts.get(base) ?? 0;
    this.counts.set(base, count + 1);
    const name = count === 0 ? base : `${base}_${count}`;
    const values = Array.from({ length: outputs }, (_, i) => this.graph.value(`${name}_output_${i}`));
    const node = new Node(op, '', name, inputs, values);
    for (const [key, init] of Object.entries(attributes)) node.setAttribute(key, attribute(init));
    this.graph.add(node);
    return values;
  }

  input(name: string, shape: readonly Dim[] = ['batch_size', 'sequence_length']): Value {
    return this.graph.input(name, 'int64', shape);
  }

  output(value: Value, name: string, shape: readonly Dim[]): void {
    value.name = name;
    value.dtype = 'float32';
    value.shape = shape;
    this.graph.outputs.push(value);
  }

  /** Uniform with the standard deviation 0.02 of transformers' initializer_range. */
  weight(name: string, ...dims: number[]): Value {
    const values = new Float32Array(dims.reduce((a, b) => a * b, 1));
    const width = 0.02 * Math.sqrt(12);
    let x = this.state;
    for (let i = 0; i < values.length; i++) {
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
      values[i] = (x / 2 ** 32) * width;
    }
    this.state = x;
    return this.graph.constant(name, new Tensor('float32', dims, new Uint8Array(values.buffer)));
  }

  /** The weight of a linear layer, which the exporter stores transposed and without its name. */
  transposedWeight(rows: number, columns: number): Value {
    return this.weight(`onnx::MatMul_${500 + this.folded++}`, rows, columns);
  }

  constant(name: string, value: number, size: number): Value {
    return this.graph.constant(name, Tensor.float32(new Float32Array(size).fill(value)));
  }

  ints(values: readonly number[]): Value {
    return this.graph.constant('Constant', Tensor.int64(values));
  }

  scalar(value: number): Value {
    return this.graph.constant('Constant', Tensor.float32([value], []));
  }

  reshape(scope: string, x: Value, shape: readonly number[]): Value {
    return this.op(scope, 'Reshape', [x, this.ints(shape)]);
  }

  layerNorm(scope: string, path: string, x: Value, width: number, epsilon: number): Value {
    const parameters = [this.constant(`${path}.weight`, 1, width), this.constant(`${path}.bias`, 0, width)];
    return this.op(scope, 'LayerNormalization', [x, ...parameters], { axis: -1, epsilon });
  }

  /** Additive mask [B, 1, S, S]: 0 where a position may look, the lowest float elsewhere. */
  causalMask(scope: string, attentionMask: Value): Value {
    const shape = this.op(scope, 'Shape', [attentionMask]);
    const length = this.op(scope, 'Gather', [shape, this.graph.constant('Constant', Tensor.int64([1], []))], {
      axis: 0,
    });
    const zero = this.graph.constant('Constant', Tensor.int64([0], []));
    const one = this.graph.constant('Constant', Tensor.int64([1], []));
    const positions = this.op(scope, 'Range', [zero, length, one]);
    const keys = this.op(scope, 'Unsqueeze', [positions, this.ints([0])]);
    const queries = this.op(scope, 'Unsqueeze', [positions, this.ints([1])]);
    const past = this.op(scope, 'LessOrEqual', [keys, queries]);
    return this.op(scope, 'Where', [
      this.op(scope, 'And', [
        this.op(scope, 'Unsqueeze', [past, this.ints([0, 1])]),
        this.op(scope, 'Cast', [this.op(scope, 'Unsqueeze', [attentionMask, this.ints([1, 2])])], { to: 9 }),
      ]),
      this.scalar(0),
      this.scalar(-3.4028234663852886e38),
    ]);
  }

  /** softmax(q k^T / sqrt(d) + mask) v of q, k, v [B, H, S, d], joined again to [B, S, H d]. */
  attention(
    scope: string,
    query: Value,
    keyTransposed: Value,
    value: Value,
    mask: Value,
    size: number,
  ): Value {
    const scores = this.op(scope, 'Mul', [
      this.op(scope, 'MatMul', [query, keyTransposed]),
      this.scalar(1 / Math.sqrt(size)),
    ]);
    const weights = this.op(scope, 'Softmax', [this.op(scope, 'Add', [scores, mask])], { axis: -1 });
    const mixed = this.op(scope, 'MatMul', [weights, value]);
    return this.op(scope, 'Transpose', [mixed], { perm: [0, 2, 1, 3] });
  }

  /** Writes `<folder>/onnx/model.onnx` and config.json. */
  save(folder: string, config: Record<string, unknown>): void {
    mkdirSync(join(folder, 'onnx'), { recursive: true });
    writeModel(
      {
        irVersion: 8,
        opsets: new Map([['', 17]]),
        graph: this.graph,
        producer: 'onnx-alora bench',
        metadata: new Map(),
      },
      join(folder, 'onnx', 'model.onnx'),
    );
    writeFileSync(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
  }
}
