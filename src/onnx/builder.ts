import type { DType } from './dtype.ts';
import { type Attribute, type AttributeInit, type Dim, type Graph, Node, type Value } from './graph.ts';
import { Tensor } from './tensor.ts';

export interface NodeOptions {
  readonly name?: string;
  /** Default: ai.onnx. */
  readonly domain?: string;
  readonly attributes?: Readonly<Record<string, AttributeInit | undefined>>;
  /** Type of the first output, where the caller knows it. */
  readonly dtype?: DType | null;
  readonly shape?: readonly Dim[] | null;
}

/** A float attribute whose value is a whole number would read as an int: say which is meant. Lists likewise. */
export function floatAttribute(value: number): Attribute {
  return { type: 'float', value };
}

export function attribute(init: AttributeInit): Attribute {
  if (typeof init === 'number')
    return Number.isInteger(init) ? { type: 'int', value: init } : floatAttribute(init);
  if (typeof init === 'string') return { type: 'string', value: init };
  if (init instanceof Tensor) return { type: 'tensor', value: init };
  if (!Array.isArray(init)) return init as Attribute;
  if (init.some((item) => typeof item === 'string')) return { type: 'strings', value: init as string[] };
  return { type: init.every(Number.isInteger) ? 'ints' : 'floats', value: init as number[] };
}

/** Appends nodes to a graph. Names carry the builder's prefix, so that a reader of the file sees who added what. */
export class Builder {
  private readonly constants = new Map<string, Value>();
  constructor(
    readonly graph: Graph,
    readonly prefix: string,
  ) {}

  /** Adds a node with one output and returns the output. */
  op(op: string, inputs: readonly (Value | null)[], options: NodeOptions = {}): Value {
    return this.node(op, inputs, 1, options).outputs[0]!;
  }

  /** Adds a node with `outputs` outputs. */
  node(op: string, inputs: readonly (Value | null)[], outputs: number, options: NodeOptions = {}): Node {
    const name = this.graph.unique(`${this.prefix}/${options.name ?? op}`);
    const values = Array.from({ length: outputs }, (_, i) =>
      this.graph.value(`${name}_output_${i}`, i === 0 ? options.dtype : null, i === 0 ? options.shape : null),
    );
    const node = new Node(op, options.domain ?? '', name, inputs, values);
    for (const [key, init] of Object.entries(options.attributes ?? {}))
      if (init !== undefined) node.setAttribute(key, attribute(init));
    this.graph.add(node);
    return node;
  }

  /** int64 vector; equal ones are shared. */
  ints(values: readonly number[]): Value {
    return this.shared(`i${values.join('_')}`, () => Tensor.int64(values));
  }

  /** int64 scalar. */
  int(value: number): Value {
    return this.shared(`int${value}`, () => Tensor.int64([value], []));
  }

  /** Scalar of a float type (default float32). */
  scalar(value: number, dtype: DType = 'float32'): Value {
    return this.shared(`${dtype}_${value}`, () => Tensor.of(dtype, [value], []));
  }

  constant(name: string, tensor: Tensor): Value {
    return this.graph.constant(`${this.prefix}/${name}`, tensor);
  }

  private shared(key: string, make: () => Tensor): Value {
    let value = this.constants.get(key);
    if (!value || !this.graph.initializers.has(value)) {
      value = this.constant(key, make());
      this.constants.set(key, value);
    }
    return value;
  }
}
