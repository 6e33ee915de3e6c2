import { AloraError } from '../../errors.ts';
import { attribute, Builder } from '../../onnx/builder.ts';
import { codeOf, type DType } from '../../onnx/dtype.ts';
import {
  type AttributeInit,
  type Dim,
  describe,
  type Graph,
  type Model,
  Node,
  Value,
} from '../../onnx/graph.ts';
import type { Types } from '../inferTypes.ts';
import { raiseOpset } from '../raiseOpset.ts';

/** The outputs of a fused node, computed by plain operators; null for outputs that nobody reads. */
export type Lowering = (node: Node, at: Site) => readonly (Value | null)[];

export type Attributes = Readonly<Record<string, AttributeInit | undefined>>;

/** Where a lowering writes its nodes. */
export class Site {
  private readonly make: Builder;
  constructor(
    private readonly model: Model,
    readonly node: Node,
    /** Values that many nodes of the model share, such as causal masks. */
    private readonly shared: Map<string, Value>,
    private readonly types: Types,
  ) {
    this.make = new Builder(model.graph, node.name || node.op);
  }

  get graph(): Graph {
    return this.model.graph;
  }
  get opset(): number {
    return this.model.opsets.get('') ?? 1;
  }

  /** The operators used need at least this version of ai.onnx. */
  require(version: number): void {
    raiseOpset(this.model, version);
  }

  op(op: string, inputs: readonly (Value | null)[], attributes: Attributes = {}): Value {
    return this.typed(this.make.node(op, inputs, 1, { attributes })).output;
  }

  /** All outputs of an operator with several. */
  outputs(op: string, inputs: readonly (Value | null)[], count: number): Value[] {
    return this.typed(this.make.node(op, inputs, count, {})).outputs.map((value) => value!);
  }

  private typed(node: Node): Node {
    this.types.extend(node);
    return node;
  }

  /** An operator of ONNX Runtime's own. */
  contrib(op: string, inputs: readonly (Value | null)[], attributes: Attributes): Value[] {
    return [this.typed(this.make.node(op, inputs, 1, { domain: 'com.microsoft', attributes })).output];
  }

  /** The fused node itself, on other inputs and with its first `outputs` outputs. */
  again(inputs: readonly (Value | null)[], outputs: number): Value[] {
    const { op, domain, name, attributes, metadata } = this.node;
    const options = { name: name || op, domain, attributes: Object.fromEntries(attributes) };
    const copy = this.typed(this.make.node(op, inputs, outputs, options));
    copy.metadata = metadata;
    return copy.outputs.map((value) => value!);
  }

  /**
   * The node that stands for the fused one: it takes over its name (or gets the one given) and metadata, which say what
   * module it is.
   */
  main(
    op: string,
    inputs: readonly (Value | null)[],
    attributes: Attributes = {},
    { domain = '', name = this.node.name }: { readonly domain?: string; readonly name?: string } = {},
  ): Value {
    const { graph, node } = this;
    const output = graph.value(`${node.name || node.op}/${op}_output_0`);
    const main = new Node(op, domain, name, inputs, [output]);
    main.metadata = node.metadata;
    for (const [key, init] of Object.entries(attributes))
      if (init !== undefined) main.setAttribute(key, attribute(init));
    this.typed(graph.add(main));
    return output;
  }

  ints(values: readonly number[]): Value {
    return this.make.ints(values);
  }
  int(value: number): Value {
    return this.make.int(value);
  }
  scalar(value: number, dtype: DType = 'float32'): Value {
    return this.make.scalar(value, dtype);
  }
  constant(name: string, tensor: Parameters<Builder['constant']>[1]): Value {
    return this.make.constant(name, tensor);
  }

  reshape(x: Value, target: readonly number[]): Value {
    return this.op('Reshape', [x, this.ints(target)]);
  }
  transpose(x: Value, perm: readonly number[]): Value {
    return this.op('Transpose', [x], { perm });
  }
  unsqueeze(x: Value, axes: readonly number[]): Value {
    return this.op('Unsqueeze', [x, this.ints(axes)]);
  }

  /** x[..., from:to] along an axis. */
  slice(x: Value, axis: number, from: number, to: number, step = 1): Value {
    return this.op('Slice', [x, this.ints([from]), this.ints([to]), this.ints([axis]), this.ints([step])]);
  }

  /** Equal parts, or parts of the given lengths. */
  split(x: Value, lengths: readonly number[], axis: number): Value[] {
    const inputs = [x, this.ints(lengths)];
    const node = this.typed(this.make.node('Split', inputs, lengths.length, { attributes: { axis } }));
    return node.outputs.map((value) => value!);
  }

  /** Length of an axis as an int64 scalar, read off an input of the graph where one has it. */
  length(x: Value, axis: number): Value {
    const dim = this.shape(x)[axis];
    if (typeof dim === 'number') return this.int(dim);
    const input = this.graph.inputs.find((value) => typeof dim === 'string' && value.shape?.includes(dim));
    if (input && input !== x) return this.length(input, input.shape!.indexOf(dim!));
    return this.op('Gather', [this.op('Shape', [x]), this.int(axis)], { axis: 0 });
  }

  cast(x: Value, dtype: 'float32' | 'int32' | 'int64' | 'bool'): Value {
    return this.op('Cast', [x], { to: codeOf(dtype) });
  }

  /** x rounded to 8 bits by the range of all its elements, once for all that read it: integers, scale, zero point. */
  quantised(x: Value): readonly (Value | null)[] {
    const integers = this.once(
      `integers of ${x.name}`,
      () => this.outputs('DynamicQuantizeLinear', [x], 3)[0]!,
    );
    return integers.producer!.outputs;
  }

  /** One value for all nodes of the model that ask with the same key; computed where the first one asks. */
  once(key: string, compute: () => Value): Value {
    let value = this.shared.get(key);
    if (!value) {
      value = compute();
      this.shared.set(key, value);
    }
    return value;
  }

  /** An input that must be there. */
  input(index: number): Value {
    return this.node.inputs[index] ?? this.refuse(`input ${index} is missing`);
  }

  /** A shape that must be known so far as its rank. */
  shape(value: Value): readonly Dim[] {
    return value.shape ?? this.refuse(`the rank of '${value.name}' is not known`);
  }

  /** A length that must be a number. */
  known(value: Value, axis: number): number {
    const dim = this.shape(value).at(axis);
    return typeof dim === 'number' ? dim : this.refuse(`axis ${axis} of '${value.name}' has no fixed length`);
  }

  /** A cache must be empty, as `emptyCache` makes it. */
  noCache(index: number, axis: number): void {
    const past = this.node.inputs[index];
    if (past && past.shape?.[axis] !== 0)
      this.refuse(
        'it reads a key/value cache that is not empty',
        'Use the file without past_key_values inputs.',
      );
  }

  /** Outputs that have no plain counterpart must have no readers. */
  unread(index: number, what: string): void {
    const output = this.node.outputs[index];
    if (output && (output.users.size > 0 || this.graph.outputs.includes(output)))
      this.refuse(`its output ${what} is read`);
  }

  refuse(reason: string, fix = 'Use an export without this fused operator.'): never {
    throw new AloraError(
      'model',
      'MODEL_LOWERING',
      `${describe(this.node)} cannot be taken apart: ${reason}`,
      {
        where: this.node.name || this.node.outputs[0]?.name,
        fix,
      },
    );
  }
}

/** Readers of a fused node's output read the value instead; outputs of the graph keep their names. */
export function replace(graph: Graph, old: Value, value: Value): void {
  if (!graph.outputs.includes(old)) {
    graph.replaceUses(old, value);
    return;
  }
  const { name } = old;
  old.name = graph.unique(`${name}/fused`);
  // A value of its own, since the other may be an output or input already.
  const output = new Value(name, value.dtype, value.shape);
  graph.replaceUses(old, output);
  graph.add(new Node('Identity', '', graph.unique(`${name}/output`), [value], [output]));
}
