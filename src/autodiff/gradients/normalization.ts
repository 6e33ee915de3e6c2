import type { Node, Value } from '../../onnx/graph.ts';
import type { Emitter } from '../emitter.ts';
import { type Gradient, type GradientContext, once } from '../rule.ts';

/** The normalised axes, from `axis` to the last, counted from the end. */
function normalizedAxes({ node, x: [x], refuse }: GradientContext): number[] {
  const axis = node.int('axis', -1);
  if (axis >= 0 && !x!.shape)
    return refuse('the rank of its input is unknown; infer shapes before differentiating');
  const first = axis < 0 ? axis : axis - x!.shape!.length;
  return Array.from({ length: -first }, (_, i) => first + i);
}

/**
 * Y = xhat scale + bias, xhat = (X - mean) inv, inv = 1 / sqrt(variance + epsilon), over the axes from `axis` on. With
 * g = dY scale and means over those axes: dX = inv (g - mean(g) - (X - mean) inv^2 mean(g (X - mean))).
 * The statistics are the node's own second and third outputs.
 */
export const LayerNormalization: Gradient = (context) => {
  const { node, x, dOutputs, dy, e, refuse } = context;
  const [X, scale, bias] = [x[0]!, x[1]!, x[2]];
  if (dOutputs[1] || dOutputs[2]) return refuse('its statistics lead to the loss');
  const axes = normalizedAxes(context);
  const statistics = once((): readonly [Value, Value] => {
    // The operator's statistics are float32 (stash_type 1, all that kernels know): too coarse for float64.
    if (e.dtype(X) === 'float64') return recomputed(e, X, axes, node.float('epsilon', 1e-5));
    return [e.cast(statistic(e, node, 1), e.dtype(X)), e.cast(statistic(e, node, 2), e.dtype(X))];
  });
  const centered = once(() => e.sub(X, statistics()[0]));
  return [
    () => {
      const inv = statistics()[1];
      const g = e.mul(dy, scale);
      const c1 = e.reduceMean(g, axes, true);
      const c2 = e.mul(e.reduceMean(e.mul(g, centered()), axes, true), e.mul(inv, inv));
      return e.mul(e.sub(e.sub(g, c1), e.mul(centered(), c2)), inv);
    },
    () => e.sumTo(e.mul(dy, e.mul(centered(), statistics()[1])), scale),
    () => e.sumTo(dy, bias!),
  ];
};

/** Mean (1) or inverse standard deviation (2) of a LayerNormalization node, added to its outputs if absent. */
function statistic(e: Emitter, node: Node, index: 1 | 2): Value {
  while (node.outputs.length <= index) node.outputs.push(null);
  let value = node.outputs[index];
  if (!value) {
    const shape = node.inputs[0]!.shape;
    const axis = node.int('axis', -1);
    const first = shape && axis < 0 ? axis + shape.length : axis;
    const name = `${node.output.name}/${index === 1 ? 'mean' : 'inverse_deviation'}`;
    value = e.builder.graph.value(name, 'float32', shape?.map((dim, i) => (i < first ? dim : 1)) ?? null);
    value.producer = node;
    node.outputs[index] = value;
  }
  return value;
}

/** Mean and inverse standard deviation over axes. */
function recomputed(e: Emitter, X: Value, axes: readonly number[], epsilon: number): [Value, Value] {
  const mean = e.reduceMean(X, axes, true);
  const centered = e.sub(X, mean);
  const variance = e.reduceMean(e.mul(centered, centered), axes, true);
  return [mean, e.unary('Reciprocal', e.unary('Sqrt', e.add(variance, epsilon)))];
}

/**
 * Y = X inv scale, inv = 1 / sqrt(mean(X^2) + epsilon), over the axes from `axis` on. With g = dY scale:
 * dX = inv (g - X inv^2 mean(g X)). inv is computed anew: the operator has one output.
 */
export const RMSNormalization: Gradient = (context) => {
  const { node, x, dy, e } = context;
  const [X, scale] = [x[0]!, x[1]!];
  const axes = normalizedAxes(context);
  const inv = once(() => {
    const square = e.reduceMean(e.mul(X, X), axes, true);
    return e.unary('Reciprocal', e.unary('Sqrt', e.add(square, node.float('epsilon', 1e-5))));
  });
  return [
    () => {
      const g = e.mul(dy, scale);
      const c = e.mul(e.reduceMean(e.mul(g, X), axes, true), e.mul(inv(), inv()));
      return e.mul(e.sub(g, e.mul(X, c)), inv());
    },
    () => e.sumTo(e.mul(dy, e.mul(X, inv())), scale),
  ];
};
