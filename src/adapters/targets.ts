import { constantForGradient, type Graph, type Model, type Node, type Value } from '../onnx/graph.ts';
import type { Tensor } from '../onnx/tensor.ts';
import { projectionName } from '../passes/lower/packedAttention.ts';
import type { LinearModule, ModelConfig, ModuleRole, ModuleUse, ModuleWeight } from './module.ts';
import { exportedPath, peftNames, placeOf } from './moduleNames.ts';

/** A product with a constant weight, before it has a name. */
interface Product extends ModuleUse {
  readonly bias: Value | null;
  readonly in: number;
  readonly out: number;
}

/** Module names of task heads, at any depth, as PEFT keeps them for its sequence and token tasks and for QA. */
const headNames = /(^|\.)(classifier|score|qa_outputs)($|\.)/;

const outputEmbeddings =
  /(^|\.)(lm_head|embed_out|lm_head\.decoder|cls\.predictions\.decoder|predictions\.decoder|vocab_projector)$/;

/** Model types whose blocks use transformers' Conv1D, which keeps its weight as [in, out]. */
const conv1dTypes = new Set(['gpt2', 'openai-gpt', 'imagegpt', 'decision_transformer']);

/**
 * All linear layers of a transformer graph, in graph order, under the names that PEFT would use. A linear
 * layer is MatMul, Gemm or FusedMatMul over a constant 2-D weight (perhaps behind Transpose, Cast, Identity
 * or DequantizeLinear), MatMulNBits, or a product of a dynamically quantised input (DynamicQuantizeMatMul, or
 * DynamicQuantizeLinear -> MatMulIntegerToFloat, or -> MatMulInteger -> Cast -> Mul). Subgraphs are not searched: inline them first.
 * `config` is config.json; without it wrapper prefixes can only be guessed.
 */
export function findLinearModules(model: Model, config: ModelConfig = {}): LinearModule[] {
  return linearModulesOf(model.graph, config, hasHead(model.graph));
}

/** Whether the graph ends in a head (it gives logits) rather than in hidden states. */
export function hasHead(graph: Graph): boolean {
  return graph.outputs.some((output) => /logits/.test(output.name));
}

/**
 * The same for one graph: a subgraph's own outputs do not tell whether the model has a head. `within`: also products
 * inside fused operators (com.microsoft Attention), which have weights, and no output that an adapter can be added to.
 */
export function linearModulesOf(
  graph: Graph,
  config: ModelConfig,
  withHead: boolean,
  { within = false } = {},
): LinearModule[] {
  const products = graph.nodes.flatMap(
    (node) => productOf(node) ?? (within ? projectionWithin(node) : undefined) ?? [],
  );
  const paths = products.map(({ node, weight, bias }) => {
    const { metadata } = node;
    const name = node.op === 'Attention' ? projectionName(node) : node.name;
    return exportedPath({ name, metadata }, weight.value, bias) ?? plainName(node);
  });
  const groups = new Map<string, Product[]>();
  peftNames(paths, config, withHead).forEach((name, i) => {
    const product = products[i]!;
    // torchscript counts the calls of a module that runs more than once: query, query_1.
    const called = groups.get(name.replace(/_\d+$/, ''));
    const again = called && sameWeight(called[0]!.weight, product.weight) ? called : undefined;
    const same = again ?? groups.get(name);
    if (same && sameWeight(same[0]!.weight, product.weight)) same.push(product);
    else groups.set(same ? unused(name, groups) : name, [product]);
  });
  return [...groups].map(([name, uses], index) => moduleOf(name, uses, index, config));
}

/** One weight, or two copies of it, as torchscript writes for each use of a layer that several blocks share. */
function sameWeight(a: ModuleWeight, b: ModuleWeight): boolean {
  if (a.value === b.value) return true;
  if (a.layout !== b.layout || a.tensor.dtype !== b.tensor.dtype) return false;
  if (a.tensor.dims.join() !== b.tensor.dims.join()) return false;
  return Buffer.compare(a.tensor.bytes(), b.tensor.bytes()) === 0;
}

/** Two layers that the exporter gave one name: the later ones are counted. PEFT knows no such names. */
function unused(name: string, taken: ReadonlyMap<string, unknown>): string {
  let serial = 1;
  while (taken.has(`${name}_${serial}`)) serial++;
  return `${name}_${serial}`;
}

function plainName(node: Node): string {
  return (node.name || (node.outputs[0]?.name ?? node.op)).split('/').filter(Boolean).join('.');
}

function moduleOf(name: string, uses: readonly Product[], index: number, config: ModelConfig): LinearModule {
  const first = uses[0]!;
  return {
    name,
    index,
    in: first.in,
    out: first.out,
    ...placeOf(name),
    role: roleOf(name, first.out, config),
    node: first.node,
    input: first.input,
    output: first.output,
    weight: first.weight,
    bias: first.bias,
    uses: uses.map(({ node, input, output, weight }) => ({ node, input, output, weight })),
    fanInFanOut: isConv1d(name, first, config),
  };
}

function roleOf(name: string, out: number, config: ModelConfig): ModuleRole {
  if (headNames.test(name)) return 'head';
  if (outputEmbeddings.test(name)) return 'lm_head';
  return placeOf(name).block === null && out === config.vocab_size ? 'lm_head' : 'linear';
}

function isConv1d(name: string, { node, weight }: Product, config: ModelConfig): boolean {
  if (typeof config.model_type === 'string')
    return conv1dTypes.has(config.model_type) && /\.(c_attn|q_attn|c_proj|c_fc)$/.test(name);
  return node.op === 'Gemm' && weight.layout === 'in-out' && weight.value.name.endsWith('.weight');
}

function productOf(node: Node): Product | undefined {
  switch (`${node.domain}:${node.op}`) {
    case ':MatMul':
      return floatProduct(node, false);
    case ':Gemm':
      return node.int('transA', 0) === 0 && node.float('alpha', 1) === 1
        ? floatProduct(node, node.int('transB', 0) === 1)
        : undefined;
    case 'com.microsoft:FusedMatMul':
      return node.int('transA', 0) === 0 && node.float('alpha', 1) === 1
        ? floatProduct(node, node.int('transB', 0) === 1)
        : undefined;
    case 'com.microsoft:MatMulNBits':
    case 'com.microsoft:MatMulBnb4':
      return blockedProduct(node);
    case 'com.microsoft:DynamicQuantizeMatMul':
      return dynamicProduct(node);
    case 'com.microsoft:MatMulIntegerToFloat':
      return integerToFloatProduct(node);
    case ':MatMulInteger':
      return integerProduct(node);
    default:
      return undefined;
  }
}

/** The projection of query, key and value within com.microsoft Attention: weight [in, q | k | v]. */
function projectionWithin(node: Node): Product | undefined {
  if (`${node.domain}:${node.op}` !== 'com.microsoft:Attention') return undefined;
  const [input, matrix, bias] = node.inputs;
  const constant = constantOf(matrix);
  if (!input || constant?.tensor.dims.length !== 2 || constant.transposed || constant.quantised)
    return undefined;
  const [width, out] = constant.tensor.dims as [number, number];
  const weight = {
    value: constant.value,
    tensor: constant.tensor,
    layout: 'in-out',
    storage: 'float',
  } as const;
  return { node, input, output: node.output, weight, bias: vector(bias, out), in: width, out };
}

/** A constant and how many operations between it and its reader swap its two axes. */
interface Constant {
  readonly value: Value;
  readonly tensor: Tensor;
  readonly transposed: boolean;
  readonly quantised: boolean;
}

/** Follows a value back through operations that keep a matrix's elements to the constant that it comes from. */
export function constantOf(value: Value | null | undefined): Constant | undefined {
  if (!value) return undefined;
  if (value.initializer)
    return { value, tensor: value.initializer, transposed: false, quantised: !isFloatTensor(value) };
  const producer = value.producer;
  if (producer?.domain !== '') return undefined;
  if (producer.op === 'Constant') {
    const tensor = producer.tensor('value');
    return tensor && { value, tensor, transposed: false, quantised: false };
  }
  const source = constantOf(producer.inputs[0]);
  if (!source) return undefined;
  switch (producer.op) {
    case 'Identity':
    case 'Cast':
      return source;
    case 'DequantizeLinear':
      return { ...source, quantised: true };
    case 'Transpose': {
      const perm = producer.ints('perm') ?? [1, 0];
      const swaps = perm.length === 2 && perm[0] === 1;
      return { ...source, transposed: swaps !== source.transposed };
    }
    default:
      return undefined;
  }
}

/** Gives a constant that `constantOf` found other elements. */
export function setConstant(value: Value, tensor: Tensor): void {
  if (value.producer) value.producer.setAttribute('value', { type: 'tensor', value: tensor });
  else value.initializer = tensor;
}

function isFloatTensor(value: Value): boolean {
  return /^b?float/.test(value.initializer?.dtype ?? '');
}

function floatProduct(node: Node, transB: boolean): Product | undefined {
  const [given, right] = node.inputs;
  const constant = constantOf(right);
  if (!given || !constant || constant.tensor.dims.length !== 2 || constantOf(given)) return undefined;
  const input = unrounded(given);
  const outIn = constant.transposed !== transB;
  const [rows, columns] = constant.tensor.dims as [number, number];
  const out = outIn ? rows : columns;
  return {
    node,
    input,
    output: node.output,
    weight: {
      value: constant.value,
      tensor: constant.tensor,
      layout: outIn ? 'out-in' : 'in-out',
      storage: constant.quantised ? 'int8' : 'float',
    },
    bias: node.op === 'Gemm' ? vector(node.inputs[2], out) : addedBias(node.output, out),
    in: outIn ? columns : rows,
    out,
  };
}

/** Where a product's input is rounded to integers at run time (see dynamicQuantized.ts), what it was rounded from. */
export function unrounded(input: Value): Value {
  const [source, difference] = input.producer?.op === 'Add' ? input.producer.inputs : [];
  return source && difference?.producer?.metadata.has(constantForGradient) ? source : input;
}

/** A constant of `out` elements along the last axis, as a bias is. */
function vector(value: Value | null | undefined, out: number): Value | null {
  const constant = constantOf(value);
  return constant?.tensor.size === out && constant.tensor.dims.at(-1) === out ? constant.value : null;
}

function addedBias(product: Value, out: number): Value | null {
  const [user, ...others] = product.users;
  if (!user || others.length > 0 || user.op !== 'Add') return null;
  return vector(user.inputs[user.inputs[0] === product ? 1 : 0], out);
}

/**
 * MatMulNBits(A, B [N, blocks, bytes], scales, zero points?, g_idx?, bias?) and MatMulBnb4(A, B, absmax); attributes
 * K = in, N = out.
 */
function blockedProduct(node: Node): Product | undefined {
  const [input, right] = node.inputs;
  const tensor = right?.initializer;
  const size = { in: node.int('K', 0), out: node.int('N', 0) };
  if (!input || !right || !tensor || size.in === 0 || size.out === 0) return undefined;
  return {
    node,
    input,
    output: node.output,
    weight: { value: right, tensor, layout: 'out-in', storage: 'blocked' },
    bias: vector(node.inputs[5], size.out) ?? addedBias(node.output, size.out),
    ...size,
  };
}

/** DynamicQuantizeMatMul(A, B [in, out] int8, scale, zero point?, bias?). */
function dynamicProduct(node: Node): Product | undefined {
  return int8Product(node, node.inputs[0], node.output, node.inputs[4]);
}

/** DynamicQuantizeLinear(x) -> MatMulIntegerToFloat(xq, W [in, out] int8, scales, zero points?, bias?). */
function integerToFloatProduct(node: Node): Product | undefined {
  return int8Product(node, quantisedFrom(node.inputs[0]), node.output, node.inputs[6]);
}

/** DynamicQuantizeLinear(x) -> MatMulInteger(xq, W) -> Cast -> Mul(scale): the product of x begins and ends there. */
function integerProduct(node: Node): Product | undefined {
  const cast = onlyUser(node.output, 'Cast');
  const scaled = cast && onlyUser(cast.output, 'Mul');
  return scaled && int8Product(node, quantisedFrom(node.inputs[0]), scaled.output);
}

/** What a DynamicQuantizeLinear rounded. */
function quantisedFrom(value: Value | null | undefined): Value | null | undefined {
  return value?.producer?.op === 'DynamicQuantizeLinear' ? value.producer.inputs[0] : undefined;
}

/** A product of `input` with the node's second input, an 8-bit constant [in, out], that ends in `output`. */
function int8Product(
  node: Node,
  input: Value | null | undefined,
  output: Value,
  bias?: Value | null,
): Product | undefined {
  const constant = constantOf(node.inputs[1]);
  if (!input || !constant || constant.tensor.dims.length !== 2) return undefined;
  const [rows, columns] = constant.tensor.dims as [number, number];
  return {
    node,
    input,
    output,
    weight: { value: constant.value, tensor: constant.tensor, layout: 'in-out', storage: 'int8' },
    bias: vector(bias, columns) ?? addedBias(output, columns),
    in: rows,
    out: columns,
  };
}

function onlyUser(value: Value, op: string): Node | undefined {
  const [user, ...others] = value.users;
  return user && others.length === 0 && user.op === op ? user : undefined;
}
