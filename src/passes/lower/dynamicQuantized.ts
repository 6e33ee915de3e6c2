import { constantForGradient, type Graph, type Node, type Value } from '../../onnx/graph.ts';
import { type Lowering, replace, type Site } from './lowering.ts';

/** Whether a graph rounds activations to 8 bits as it runs. */
export function roundsActivations(graph: Graph): boolean {
  return graph.nodes.some(({ op }) => op === 'DynamicQuantizeLinear');
}

/** W [K, N] int8 or uint8 with scale and zero point per tensor or per column, as floats that stay one byte each. */
function dequantized(at: Site, weight: Value, scale: Value, zero: Value | null | undefined): Value {
  const flat = (value: Value) => {
    // A [1] vector would be read as per-column.
    const one = value.initializer?.dims.length === 1 && value.initializer.size === 1;
    return one ? at.op('Squeeze', [value, at.ints([0])]) : value;
  };
  return at.op('DequantizeLinear', [weight, flat(scale), ...(zero ? [flat(zero)] : [])], { axis: 1 });
}

/**
 * x as DynamicQuantizeLinear rounds it, with the gradient of x itself (straight-through estimator, Bengio et al. 2013):
 * x + (round(x) - x), where the difference counts as a constant. `outputs` are the quantiser's: integers, scale, zero
 * point; one scale for the whole tensor, padding included, as the kernel has it.
 */
function rounded(at: Site, x: Value, outputs: readonly (Value | null)[]): Value {
  return at.once(`rounded ${outputs[0]!.name}`, () => {
    const difference = at.op('Sub', [at.op('DequantizeLinear', outputs), x]);
    difference.producer!.metadata = new Map([[constantForGradient, 'true']]);
    return at.op('Add', [x, difference]);
  });
}

function withBias(at: Site, product: Value, bias: Value | null | undefined): Value {
  return bias ? at.op('Add', [product, bias]) : product;
}

/** com.microsoft DynamicQuantizeMatMul: A, B int8 [K, N], b_scale, b_zero_point?, bias? A is rounded to 8 bits. */
export const dynamicQuantizeMatMul: Lowering = (node, at) => {
  const weight = dequantized(at, at.input(1), at.input(2), node.inputs[3]);
  const x = at.input(0);
  const activation = at.once(`quantised ${x.name}`, () =>
    rounded(at, x, at.outputs('DynamicQuantizeLinear', [x], 3)),
  );
  return [withBias(at, at.main('MatMul', [activation, weight]), node.inputs[4])];
};

/** What DynamicQuantizeLinear made `quantized` from; undefined for anything else. */
function floatSource(quantized: Value | null | undefined): Value | undefined {
  const node = quantized?.producer;
  if (node?.op !== 'DynamicQuantizeLinear' || node.outputs[0] !== quantized) return undefined;
  return node.inputs[0] ?? undefined;
}

/** com.microsoft MatMulIntegerToFloat of a dynamically quantised A: A, B, a_scale, b_scale, zero points, bias. */
export const matMulIntegerToFloat: Lowering = (node, at) => {
  const source = floatSource(node.inputs[0]) ?? at.refuse('its input is not quantised at run time');
  const weight = dequantized(at, at.input(1), at.input(3), node.inputs[5]);
  const activation = rounded(at, source, node.inputs[0]!.producer!.outputs);
  return [withBias(at, at.main('MatMul', [activation, weight]), node.inputs[6])];
};

/** The single reader of a value. */
function onlyUser(value: Value): Node | undefined {
  return value.users.size === 1 ? [...value.users][0] : undefined;
}

/**
 * The chain that ONNX Runtime's quantiser writes: DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul by the product
 * of both scales. Returns the Mul, whose output the float product replaces; undefined where the chain is another.
 */
function scaledProduct(node: Node): { end: Node; source: Value; scale: Value } | undefined {
  const source = floatSource(node.inputs[0]);
  const cast = onlyUser(node.output);
  const end = cast?.op === 'Cast' ? onlyUser(cast.output) : undefined;
  if (!source || end?.op !== 'Mul') return undefined;
  const scales = end.inputs.find((value) => value !== cast!.output)?.producer;
  if (scales?.op !== 'Mul') return undefined;
  const own = node.inputs[0]!.producer!.outputs[1];
  const scale = scales.inputs.find((value) => value !== own);
  return scale?.initializer && scales.inputs.includes(own ?? null) ? { end, source, scale } : undefined;
}

/** MatMulInteger with the chain around it, as one float product by the dequantised weight. */
export const matMulInteger: Lowering = (node, at) => {
  const chain = scaledProduct(node);
  if (!chain)
    return at.refuse('it is not the middle of DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul');
  const product = at.main('MatMul', [
    rounded(at, chain.source, node.inputs[0]!.producer!.outputs),
    dequantized(at, at.input(1), chain.scale, node.inputs[3]),
  ]);
  replace(at.graph, chain.end.output, product);
  return [null];
};
