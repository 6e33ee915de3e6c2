import { codeOf, type DType } from '../onnx/dtype.ts';
import type { Attribute, Graph, Model, Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';

const isHalf = (dtype: DType | null) => dtype === 'float16' || dtype === 'bfloat16';

/** Attributes that hold an element type. */
const typeAttributes = new Set(['to', 'dtype', 'output_dtype', 'softmax_precision']);

/**
 * Makes a float16 or bfloat16 model compute in float32, in place: constants are converted one by one, casts to the
 * small types become casts to float32 (no-ops that `fold` drops), and so do the types of inputs and outputs: feed
 * float32 where the file asks for float16. Returns whether anything changed.
 */
export function widen(model: Model): boolean {
  return widenGraph(model.graph);
}

function widenGraph(graph: Graph): boolean {
  let changed = false;
  const widenValue = (value: Value | null) => {
    if (!value || !isHalf(value.dtype ?? value.initializer?.dtype ?? null)) return;
    value.dtype = 'float32';
    if (value.initializer) value.initializer = widenTensor(value.initializer);
    changed = true;
  };
  graph.inputs.forEach(widenValue);
  for (const value of graph.initializers) widenValue(value);
  for (const node of graph.nodes) {
    node.outputs.forEach(widenValue);
    for (const [name, attribute] of node.attributes) {
      if (attribute.type === 'graph') changed = widenGraph(attribute.value) || changed;
      const wide = widenAttribute(name, attribute);
      if (!wide) continue;
      node.setAttribute(name, wide);
      changed = true;
    }
  }
  return changed;
}

function widenAttribute(name: string, attribute: Attribute): Attribute | undefined {
  if (attribute.type === 'tensor' && isHalf(attribute.value.dtype))
    return { type: 'tensor', value: widenTensor(attribute.value) };
  const half =
    attribute.type === 'int' && ['float16', 'bfloat16'].some((t) => codeOf(t as DType) === attribute.value);
  return half && typeAttributes.has(name) ? { type: 'int', value: codeOf('float32') } : undefined;
}

function widenTensor(tensor: Tensor): Tensor {
  const { buffer, byteOffset, byteLength } = tensor.toFloat32();
  return new Tensor('float32', tensor.dims, new Uint8Array(buffer, byteOffset, byteLength));
}
