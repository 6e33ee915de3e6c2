import type { Value } from '../../onnx/graph.ts';
import type { Lowering, Site } from './lowering.ts';

/** x / sqrt(mean(x^2) + epsilon) * scale over the last axis. */
export function rmsNormalize(at: Site, x: Value, scale: Value, epsilon: number): Value {
  const square = at.op('Mul', [x, x]);
  const mean =
    at.opset >= 18
      ? at.op('ReduceMean', [square, at.ints([-1])], { keepdims: 1 })
      : at.op('ReduceMean', [square], { axes: [-1], keepdims: 1 });
  const root = at.op('Sqrt', [at.op('Add', [mean, at.scalar(epsilon)])]);
  return at.op('Mul', [at.op('Div', [x, root]), scale]);
}

/** x + skip (+ bias), all [B, S, D] but for the bias [D]. */
function sum(at: Site, bias: Value | null | undefined): Value {
  const total = at.op('Add', [at.input(0), at.input(1)]);
  return bias ? at.op('Add', [total, bias]) : total;
}

/** Y, mean, 1/deviation and the sum; the second and third are for ONNX Runtime's training, and never read. */
function skipOutputs(at: Site, y: Value, total: Value): readonly (Value | null)[] {
  at.unread(1, 'mean');
  at.unread(2, 'inv_std_var');
  return [y, null, null, total].slice(0, at.node.outputs.length);
}

/** x, skip, gamma, beta?, bias? -> LayerNormalization(x + skip + bias), the sum as fourth output. */
export const skipLayerNormalization: Lowering = (node, at) => {
  at.require(17);
  const total = sum(at, node.inputs[4]);
  const epsilon = { type: 'float', value: node.float('epsilon', 1e-12) } as const;
  const beta = node.inputs[3];
  const inputs = [total, at.input(2), ...(beta ? [beta] : [])];
  return skipOutputs(at, at.op('LayerNormalization', inputs, { axis: -1, epsilon }), total);
};

/** x, skip, gamma, bias? -> the same with the root mean square. */
export const skipSimplifiedLayerNormalization: Lowering = (node, at) => {
  const total = sum(at, node.inputs[3]);
  return skipOutputs(at, rmsNormalize(at, total, at.input(2), node.float('epsilon', 1e-12)), total);
};

/** ONNX Runtime's RMS norm, which it keeps in the default domain: x, scale. */
export const simplifiedLayerNormalization: Lowering = (node, at) => {
  const x = at.input(0);
  const axis = node.int('axis', -1);
  if (axis !== -1 && axis !== at.shape(x).length - 1) at.refuse('it does not normalise the last axis');
  at.unread(1, 'inv_std_var');
  return [rmsNormalize(at, x, at.input(1), node.float('epsilon', 1e-5)), null].slice(0, node.outputs.length);
};
