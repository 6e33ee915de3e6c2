import { dtypeOf } from '../../onnx/dtype.ts';
import type { Dim, Node } from '../../onnx/graph.ts';
import { type Inferred, isNumeric, type Rule, shapeAt, tensorItems } from './rule.ts';

/** What two branches agree on. */
function common(a: Inferred | undefined, b: Inferred | undefined): Inferred {
  const [left, right] = [a?.shape, b?.shape];
  return {
    dtype: a && b && a.dtype === b.dtype ? a.dtype : null,
    shape:
      left && right && left.length === right.length
        ? left.map((dim, axis): Dim => (dim === right[axis] ? dim : null))
        : null,
  };
}

const choose: Rule = (node, scope) => {
  const condition = scope.items(node.inputs[0])?.[0];
  const whenTrue = scope.outputsOf(node, 'then_branch');
  const whenFalse = scope.outputsOf(node, 'else_branch');
  if (typeof condition === 'number') return condition ? whenTrue : whenFalse;
  return node.outputs.map((_, i) => common(whenTrue[i], whenFalse[i]));
};

function constant(node: Node): Inferred {
  const tensor = node.tensor('value');
  if (tensor) return { dtype: tensor.dtype, shape: tensor.dims, items: tensorItems(tensor) };
  const ints = node.ints('value_ints');
  if (ints) return { dtype: 'int64', shape: [ints.length], items: ints };
  const floats = node.floats('value_floats');
  if (floats) return { dtype: 'float32', shape: [floats.length], items: floats };
  if (node.attributes.has('value_int'))
    return { dtype: 'int64', shape: [], items: [node.int('value_int', 0)] };
  if (node.attributes.has('value_float'))
    return { dtype: 'float32', shape: [], items: [node.float('value_float', 0)] };
  return { dtype: null, shape: null };
}

const random: Rule = (node) => {
  const shape = node.ints('shape') ?? null;
  return [{ dtype: dtypeOf(node.int('dtype', 1)) ?? null, shape: isNumeric(shape) ? shape : null }];
};

const randomLike: Rule = (node) => [
  { dtype: dtypeOf(node.int('dtype', 0)) ?? node.inputs[0]?.dtype ?? null, shape: shapeAt(node, 0) },
];

/** Branches, constants and random tensors. Loops are left unknown. */
export const controlRules: Readonly<Record<string, Rule>> = {
  If: choose,
  Constant: (node) => [constant(node)],
  RandomNormal: random,
  RandomUniform: random,
  RandomNormalLike: randomLike,
  RandomUniformLike: randomLike,
  Bernoulli: randomLike,
};
