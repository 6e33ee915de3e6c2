import { AloraError } from '../errors.ts';
import type { DType } from './dtype.ts';
import type { Tensor } from './tensor.ts';

/** One dimension: a length, a symbolic name shared by equal lengths, or null where nothing is known. */
export type Dim = number | string | null;

export type Attribute =
  | { readonly type: 'float'; readonly value: number }
  | { readonly type: 'int'; readonly value: number }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'tensor'; readonly value: Tensor }
  | { readonly type: 'graph'; readonly value: Graph }
  | { readonly type: 'floats'; readonly value: readonly number[] }
  | { readonly type: 'ints'; readonly value: readonly number[] }
  | { readonly type: 'strings'; readonly value: readonly string[] };

/** What builders accept as attributes: the type is read off the JavaScript value; `float` marks whole floats. */
export type AttributeInit = Attribute | number | string | Tensor | readonly number[] | readonly string[];

/** An edge of the graph: made by one node (or an input, or a constant), used by any number. */
export class Value {
  producer: Node | null = null;
  /** Nodes that read this value, each once however often it reads it; nodes of subgraphs count. */
  readonly users = new Set<Node>();
  /** Set on constants. A value may be an initializer and a graph input at once (IR version 3). */
  initializer: Tensor | null = null;
  constructor(
    public name: string,
    public dtype: DType | null = null,
    /** null: rank unknown. */
    public shape: readonly Dim[] | null = null,
  ) {}
}

/** Metadata key of a node whose result counts as a constant when gradients are taken. */
export const constantForGradient = 'onnx-alora.constant-for-gradient';

/** Metadata key of a node that yields y / x for an activation y of x; the value is y's name. */
export const quotientOf = 'onnx-alora.quotient-of';

/** One operator application. Inputs and attributes change only through methods, so that `users` stays true. */
export class Node {
  readonly inputs: (Value | null)[] = [];
  readonly outputs: (Value | null)[] = [];
  readonly attributes = new Map<string, Attribute>();
  /** `metadata_props`, where dynamo exports keep their module paths. */
  metadata: ReadonlyMap<string, string> = new Map();
  constructor(
    readonly op: string,
    /** Empty for ai.onnx. */
    readonly domain: string,
    public name: string,
    inputs: readonly (Value | null)[],
    outputs: readonly (Value | null)[],
  ) {
    for (const value of inputs) {
      this.inputs.push(value);
      value?.users.add(this);
    }
    for (const value of outputs) {
      this.outputs.push(value);
      if (value) value.producer = this;
    }
  }

  /** The only output; for operators with one. */
  get output(): Value {
    return this.outputs[0]!;
  }

  setInput(index: number, value: Value | null): void {
    const old = this.inputs[index];
    while (this.inputs.length <= index) this.inputs.push(null);
    this.inputs[index] = value;
    if (old && !this.reads(old)) old.users.delete(this);
    value?.users.add(this);
  }

  setAttribute(name: string, attribute: Attribute): void {
    this.attributes.set(name, attribute);
    if (attribute.type === 'graph') for (const value of attribute.value.captures()) value.users.add(this);
  }

  /** Whether this node, or a subgraph in its attributes, reads the value. */
  reads(value: Value): boolean {
    return this.inputs.includes(value) || this.subgraphs().some((graph) => graph.captures().has(value));
  }

  subgraphs(): Graph[] {
    return [...this.attributes.values()].flatMap((a) => (a.type === 'graph' ? [a.value] : []));
  }

  int(name: string, otherwise: number): number {
    return this.attribute(name, 'int')?.value ?? otherwise;
  }
  float(name: string, otherwise: number): number {
    return this.attribute(name, 'float')?.value ?? otherwise;
  }
  string(name: string, otherwise: string): string {
    return this.attribute(name, 'string')?.value ?? otherwise;
  }
  ints(name: string): readonly number[] | undefined {
    return this.attribute(name, 'ints')?.value;
  }
  floats(name: string): readonly number[] | undefined {
    return this.attribute(name, 'floats')?.value;
  }
  tensor(name: string): Tensor | undefined {
    return this.attribute(name, 'tensor')?.value;
  }
  graph(name: string): Graph | undefined {
    return this.attribute(name, 'graph')?.value;
  }

  private attribute<T extends Attribute['type']>(
    name: string,
    type: T,
  ): Extract<Attribute, { type: T }> | undefined {
    const found = this.attributes.get(name);
    if (found && found.type !== type)
      throw new AloraError(
        'model',
        'MODEL_ATTRIBUTE_TYPE',
        `Attribute ${name} of ${describe(this)} has the wrong type`,
        {
          got: found.type,
          allowed: type,
          fix: 'Export the model again.',
        },
      );
    return found as Extract<Attribute, { type: T }> | undefined;
  }
}

/** How errors name a node: operator, name, domain. */
export function describe(node: Node): string {
  const domain = node.domain === '' ? '' : `${node.domain}.`;
  return `${domain}${node.op} '${node.name || (node.outputs[0]?.name ?? '')}'`;
}

/** A graph of nodes over values. Node order is free while editing; `sort` restores the order that ONNX wants. */
export class Graph {
  nodes: Node[] = [];
  inputs: Value[] = [];
  outputs: Value[] = [];
  /** All constants, in file order. */
  readonly initializers = new Set<Value>();
  private serial = 0;
  private readonly taken = new Set<string>();

  constructor(public name = 'graph') {}

  /** A new value; the name is made unique within this graph. */
  value(name: string, dtype: DType | null = null, shape: readonly Dim[] | null = null): Value {
    return new Value(this.unique(name), dtype, shape);
  }

  /** Marks a name as used, as readers of files do for names that must not change. */
  reserve(name: string): void {
    this.taken.add(name);
  }

  unique(name: string): string {
    let candidate = name;
    while (this.taken.has(candidate)) candidate = `${name}_${++this.serial}`;
    this.taken.add(candidate);
    return candidate;
  }

  input(name: string, dtype: DType, shape: readonly Dim[]): Value {
    const value = this.value(name, dtype, shape);
    this.inputs.push(value);
    return value;
  }

  constant(name: string, tensor: Tensor): Value {
    const value = this.value(name, tensor.dtype, tensor.dims);
    value.initializer = tensor;
    this.initializers.add(value);
    return value;
  }

  add(node: Node): Node {
    this.nodes.push(node);
    return node;
  }

  findInput(name: string): Value | undefined {
    return this.inputs.find((value) => value.name === name);
  }

  findOutput(name: string): Value | undefined {
    return this.outputs.find((value) => value.name === name);
  }

  /** Makes every user of `old` (graph outputs and subgraphs included) read `replacement` instead. */
  replaceUses(old: Value, replacement: Value, except: ReadonlySet<Node> = new Set()): void {
    const users = [...old.users].filter((user) => !except.has(user));
    for (const user of users) {
      user.inputs.forEach((value, i) => {
        if (value === old) user.setInput(i, replacement);
      });
      // Nodes within a subgraph are users themselves; what is left is a result that passes the value on.
      for (const graph of user.subgraphs())
        graph.outputs = graph.outputs.map((value) => (value === old ? replacement : value));
    }
    for (const user of users) {
      if (user.reads(replacement)) replacement.users.add(user);
      if (!user.reads(old)) old.users.delete(user);
    }
    this.outputs = this.outputs.map((value) => (value === old ? replacement : value));
  }

  /**
   * Puts `value` in the place of `old`: its readers (`except` those nodes), its place among the outputs, its name, and
   * its type where `value` has none. `old` stays under another name.
   */
  takePlace(old: Value, value: Value, except?: ReadonlySet<Node>): void {
    this.replaceUses(old, value, except);
    const { name } = old;
    old.name = this.unique(`${name}/before`);
    value.name = name;
    value.dtype ??= old.dtype;
    value.shape ??= old.shape;
  }

  /** Removes nodes whose outputs nobody reads any more. */
  remove(nodes: Iterable<Node>): void {
    const gone = new Set(nodes);
    for (const node of gone) {
      for (const value of node.inputs) value?.users.delete(node);
      for (const graph of node.subgraphs()) {
        for (const value of graph.captures()) value.users.delete(node);
        graph.remove(graph.nodes);
      }
      for (const value of node.outputs) if (value?.producer === node) value.producer = null;
    }
    this.nodes = this.nodes.filter((node) => !gone.has(node));
  }

  /** Values of enclosing graphs that nodes or outputs of this subgraph read. */
  captures(): Set<Value> {
    const own = new Set<Value>([...this.inputs, ...this.initializers]);
    for (const node of this.nodes) for (const value of node.outputs) if (value) own.add(value);
    const captured = new Set<Value>();
    const note = (value: Value | null) => {
      if (value && !own.has(value)) captured.add(value);
    };
    for (const node of this.nodes) {
      node.inputs.forEach(note);
      for (const graph of node.subgraphs()) for (const value of graph.captures()) note(value);
    }
    this.outputs.forEach(note);
    return captured;
  }

  /** Orders nodes so that each comes after the nodes it reads from; keeps the given order where it can. */
  sort(): void {
    const sorted: Node[] = [];
    const state = new Map<Node, 'open' | 'done'>();
    const own = new Set(this.nodes);
    const needs = (node: Node) => {
      const values = [...node.inputs, ...node.subgraphs().flatMap((graph) => [...graph.captures()])];
      return values.flatMap((value) => (value?.producer && own.has(value.producer) ? [value.producer] : []));
    };
    for (const root of this.nodes) {
      // Depth first with an explicit stack: a training graph is deeper than the call stack.
      const stack: { node: Node; pending: Node[] }[] = [];
      const open = (node: Node) => {
        if (state.get(node) === 'done') return;
        if (state.get(node) === 'open')
          throw new AloraError('model', 'MODEL_CYCLE', `The graph has a cycle through ${describe(node)}`, {
            fix: 'export the model again: in a valid ONNX file no node reads what it makes',
          });
        state.set(node, 'open');
        stack.push({ node, pending: needs(node).reverse() });
      };
      open(root);
      while (stack.length > 0) {
        const top = stack[stack.length - 1]!;
        const next = top.pending.pop();
        if (next) {
          open(next);
        } else {
          state.set(top.node, 'done');
          sorted.push(top.node);
          stack.pop();
        }
      }
    }
    this.nodes = sorted;
  }
}

/** An ONNX model: the main graph and what surrounds it in the file. */
export interface Model {
  irVersion: number;
  /** Operator set version by domain; '' is ai.onnx. */
  opsets: Map<string, number>;
  graph: Graph;
  producer: string;
  /** Model-level metadata_props. */
  metadata: Map<string, string>;
}
