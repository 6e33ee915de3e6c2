import { codeOf } from '../../src/onnx/dtype.ts';
import { type Graph, Node, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';

/** Operators that ONNX Runtime's CPU provider computes in float32 only. */
const float32Only = new Set(['Erf', 'Gelu']);

/**
 * Makes a float32 graph compute in float64, in place, so that finite differences are exact enough to check
 * gradients. Operators without a float64 kernel stay in float32 between casts; returns whether there are any.
 */
export function toFloat64(graph: Graph): boolean {
  const widened = (tensor: Tensor) => Tensor.float64(tensor.toNumbers(), tensor.dims);
  const widenValue = (value: Value | null) => {
    if (value?.dtype !== 'float32') return;
    value.dtype = 'float64';
    if (value.initializer) value.initializer = widened(value.initializer);
  };
  for (const value of [...graph.inputs, ...graph.initializers]) widenValue(value);
  let rounded = false;
  for (const node of [...graph.nodes]) {
    node.outputs.forEach(widenValue);
    for (const [name, attribute] of node.attributes) {
      if (attribute.type === 'tensor' && attribute.value.dtype === 'float32')
        node.setAttribute(name, { type: 'tensor', value: widened(attribute.value) });
      if (attribute.type === 'int' && name === 'to' && attribute.value === codeOf('float32'))
        node.setAttribute(name, { type: 'int', value: codeOf('float64') });
    }
    if (!float32Only.has(node.op)) continue;
    rounded = true;
    const [x, y] = [node.inputs[0]!, node.output];
    const cast = (from: Value, to: Value) => {
      const added = new Node('Cast', '', graph.unique('cast'), [from], [to]);
      added.setAttribute('to', { type: 'int', value: codeOf(to.dtype!) });
      graph.add(added);
    };
    const narrowX = graph.value('narrow', 'float32', x.shape);
    const narrowY = graph.value('narrow', 'float32', y.shape);
    cast(x, narrowX);
    node.setInput(0, narrowX);
    node.outputs[0] = narrowY;
    narrowY.producer = node;
    cast(narrowY, y);
  }
  return rounded;
}
