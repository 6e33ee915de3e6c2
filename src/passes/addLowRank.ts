import { Builder } from '../onnx/builder.ts';
import type { Dim, Graph, Model, Node, Value } from '../onnx/graph.ts';
import { Lengths } from './lengths.ts';
import { roundsActivations } from './lower/dynamicQuantized.ts';
import { prune } from './prune.ts';
import { add, product } from './symbolic.ts';

/**
 * Adds low-rank products to what they are added to in one pass, in place: of a sum y + u B + b with B [rank, N] of a
 * symbolic rank, the product and the bias b [N] are written over y by ONNX Runtime's FusedConv (CPU), a 1 x 1
 * convolution that takes what it adds to as an input and has it overwritten where nobody else reads it. MatMul and Add
 * would write two more tensors of y's size, Gemm would copy y. Several low-rank products of one sum become one, over
 * concatenated ranks: the input gradients of layers that read the same input. A rank of 0 adds nothing.
 * Returns how many sums changed. A graph that rounds activations to 8 bits stays as it is: its sums keep the order of
 * the file, since a last bit that differs makes a whole step where it is rounded.
 */
export function addLowRank(model: Model): number {
  const { graph } = model;
  if (roundsActivations(graph)) return 0;
  graph.sort();
  const writer = new Writer(graph);
  let changed = 0;
  // A sum's last Add comes after those that it contains.
  const within = new Set<Node>();
  for (const node of graph.nodes.toReversed()) {
    if (!isAdd(node) || within.has(node)) continue;
    const sum = readSum(node, graph);
    if (!sum) continue;
    for (const add of sum.adds) within.add(add);
    graph.takePlace(node.output, writer.write(sum, node.output));
    changed++;
  }
  if (changed === 0) return 0;
  model.opsets.set('com.microsoft', 1);
  prune(graph);
  graph.sort();
  return changed;
}

/** u [..., rank] times B [rank, N]. */
interface LowRank {
  readonly u: Value;
  readonly b: Value;
}

interface Sum {
  readonly adds: readonly Node[];
  readonly lowRank: readonly LowRank[];
  /** Vectors [N] that every row gets. */
  readonly biases: readonly Value[];
  /** Terms of the sum's shape. */
  readonly others: readonly Value[];
}

const isAdd = (node: Node | null): node is Node => node?.op === 'Add' && node.domain === '';

/** The terms of a sum that has low-rank products and something of its own shape to add them to. */
function readSum(root: Node, graph: Graph): Sum | undefined {
  const { output } = root;
  if (output.dtype !== 'float32' || !output.shape || output.shape.length < 2) return undefined;
  const width = output.shape.at(-1);
  if (typeof width !== 'number' || width === 0) return undefined;
  const alone = (value: Value) => value.users.size === 1 && !graph.outputs.includes(value);
  const sum = { adds: [] as Node[], lowRank: [] as LowRank[], biases: [] as Value[], others: [] as Value[] };
  const read = (node: Node): boolean => {
    sum.adds.push(node);
    return node.inputs.every((value) => {
      if (!value || node.inputs[0] === node.inputs[1]) return false;
      if (value.shape?.length === 1 && value.shape[0] === width) sum.biases.push(value);
      else if (!sameDims(value, output)) return false;
      else if (isAdd(value.producer) && alone(value)) return read(value.producer);
      else {
        const term = alone(value) ? lowRankProduct(value, alone) : undefined;
        if (term) sum.lowRank.push(term);
        else sum.others.push(value);
      }
      return true;
    });
  };
  return read(root) && sum.lowRank.length > 0 && sum.others.length > 0 ? sum : undefined;
}

function sameDims(a: Value, b: Value): boolean {
  return (
    a.shape?.length === b.shape?.length && (a.shape?.every((dim, axis) => dim === b.shape![axis]) ?? false)
  );
}

/** The factors of a product whose inner dimension is an adapter's rank; views of it in another shape count. */
function lowRankProduct(value: Value, alone: (value: Value) => boolean): LowRank | undefined {
  let node = value.producer;
  while (node?.domain === '' && node.op === 'Reshape' && node.inputs[0] && alone(node.inputs[0])) {
    if (node.inputs[0].shape?.at(-1) !== value.shape!.at(-1)) return undefined;
    node = node.inputs[0].producer;
  }
  if (node?.domain !== '' || node.output.dtype !== 'float32') return undefined;
  const [u, b, c] = node.inputs;
  const plain =
    node.op === 'MatMul' ||
    (node.op === 'Gemm' &&
      !c &&
      node.int('transA', 0) === 0 &&
      node.int('transB', 0) === 0 &&
      node.float('alpha', 1) === 1);
  if (!plain || !u?.shape || u.shape.length < 2 || b?.shape?.length !== 2) return undefined;
  return typeof b.shape[0] === 'string' ? { u, b } : undefined;
}

class Writer {
  private readonly make: Builder;
  private readonly lengths: Lengths;
  constructor(private readonly graph: Graph) {
    this.make = new Builder(graph, '/sum');
    this.lengths = new Lengths(this.make);
  }

  write({ lowRank, biases, others }: Sum, output: Value): Value {
    const { make } = this;
    const shape = output.shape!;
    const width = shape.at(-1) as number;
    const rows = product(shape.slice(0, -1));
    const typed = (shape: readonly Dim[]) => ({ dtype: 'float32', shape }) as const;
    const vectors = [...biases];
    const [base, ...rest] = others.map((value) => {
      const { product, bias } = this.withoutBias(value);
      if (bias) vectors.push(bias);
      return product;
    });
    const sum = rest.reduce((a, b) => make.op('Add', [a, b], typed(shape)), base!);
    let u = this.concat(
      lowRank.map((product) => this.flat(product.u, rows)),
      1,
    );
    let b = this.concat(
      lowRank.map((product) => product.b),
      0,
    );
    if (vectors.length > 0) {
      // A bias is one more rank, whose factor is 1.
      const bias = vectors.reduce((a, b) => make.op('Add', [a, b], typed([width])));
      const row = make.op('Unsqueeze', [bias, make.ints([0])], typed([1, width]));
      u = make.op('Pad', [u, make.ints([0, 0, 0, 1]), make.scalar(1)], typed([rows, null]));
      b = this.concat([b, row], 0);
    }
    const rank = b.shape![0]!;
    // Of the same shape by name: else ONNX Runtime does not see that it can write over it.
    const image = typed([1, rows, 1, width]);
    const total = make.op(
      'FusedConv',
      [
        make.op('Unsqueeze', [b, make.ints([0, 2])], typed([1, rank, 1, width])),
        make.op('Unsqueeze', [u, make.ints([2, 3])], typed([rows, rank, 1, 1])),
        null,
        make.op('Reshape', [sum, make.ints([1, -1, 1, width])], image),
      ],
      { ...image, domain: 'com.microsoft', attributes: { kernel_shape: [1, 1] } },
    );
    const flat = shape.length === 2;
    return make.op('Reshape', [total, flat ? make.ints([-1, width]) : this.lengths.of(sum)], typed(shape));
  }

  private concat(parts: readonly Value[], axis: 0 | 1): Value {
    if (parts.length === 1) return parts[0]!;
    const shape = [...parts[0]!.shape!];
    shape[axis] = parts.map((part) => part.shape![axis]!).reduce<Dim>(add, 0);
    return this.make.op('Concat', parts, { attributes: { axis }, dtype: 'float32', shape });
  }

  /** u as [rows, rank]; its rank may be 0. */
  private flat(u: Value, rows: Dim): Value {
    if (u.shape!.length === 2) return u;
    const options = { dtype: 'float32', shape: [rows, u.shape!.at(-1)!] } as const;
    return this.make.op('Flatten', [u], { ...options, attributes: { axis: -1 } });
  }

  /** A Gemm that only this sum reads, without its bias [N], and the bias; other values as they are. */
  private withoutBias(value: Value): { readonly product: Value; readonly bias?: Value } {
    const view = value.producer?.op === 'Reshape' ? value.producer : undefined;
    const node = view ? view.inputs[0]!.producer : value.producer;
    const bias = node?.inputs[2];
    const only = [value, view?.inputs[0]].every(
      (each) => !each || (each.users.size === 1 && !this.graph.outputs.includes(each)),
    );
    if (node?.op !== 'Gemm' || bias?.shape?.length !== 1 || bias.shape[0] !== value.shape!.at(-1) || !only)
      return { product: value };
    if (node.float('beta', 1) !== 1) return { product: value };
    const { dtype, shape } = node.output;
    const attributes = Object.fromEntries(node.attributes);
    let product = this.make.op('Gemm', node.inputs.slice(0, 2), {
      name: bare(node),
      attributes,
      dtype,
      shape,
    });
    product.producer!.metadata = node.metadata;
    if (view) product = this.make.op('Reshape', [product, view.inputs[1]!], { dtype, shape: value.shape });
    return { product, bias };
  }
}

const bare = (node: Node) => (node.name || node.op).replace(/^\//, '');
