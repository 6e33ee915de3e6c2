import type { Value } from '../../onnx/graph.ts';
import type { Lowering, Site } from './lowering.ts';

/** 0.5 x (1 + erf(x / sqrt 2)). */
function gelu(at: Site, x: Value): Value {
  if (at.opset >= 20) return at.op('Gelu', [x]);
  const erf = at.op('Erf', [at.op('Mul', [x, at.scalar(Math.SQRT1_2)])]);
  return at.op('Mul', [at.op('Mul', [x, at.scalar(0.5)]), at.op('Add', [erf, at.scalar(1)])]);
}

const biased = (at: Site): Value => {
  const bias = at.node.inputs[1];
  return bias ? at.op('Add', [at.input(0), bias]) : at.input(0);
};

/** com.microsoft Gelu and BiasGelu: exact, of x or of x + bias. */
export const exactGelu: Lowering = (_, at) => [gelu(at, biased(at))];

/** com.microsoft FastGelu: 0.5 x (1 + tanh(0.7978845608 x + 0.0356774081 x^3)) of x or of x + bias. */
export const fastGelu: Lowering = (_, at) => {
  const x = biased(at);
  const square = at.op('Mul', [x, x]);
  const factor = at.op('Add', [
    at.op('Mul', [square, at.scalar(0.035677408136300125)]),
    at.scalar(Math.sqrt(2 / Math.PI)),
  ]);
  const tanh = at.op('Tanh', [at.op('Mul', [x, factor])]);
  return [at.op('Mul', [at.op('Mul', [x, at.scalar(0.5)]), at.op('Add', [tanh, at.scalar(1)])])];
};

/** com.microsoft QuickGelu: x sigmoid(alpha x). */
export const quickGelu: Lowering = (node, at) => {
  const x = at.input(0);
  const alpha = node.float('alpha', 1.702);
  const scaled = alpha === 1 ? x : at.op('Mul', [x, at.scalar(alpha)]);
  return [at.op('Mul', [x, at.op('Sigmoid', [scaled])])];
};
