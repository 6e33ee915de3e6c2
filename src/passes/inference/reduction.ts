import type { Dim, Node } from '../../onnx/graph.ts';
import { add, multiply } from '../symbolic.ts';
import { dtypeAt, type Inferred, isNumeric, normalAxis, type Rule, type Scope, shapeAt } from './rule.ts';
import { integers } from './shapes.ts';

/** Shape after reducing over `axes`; null where the axes are not known. */
function reducedShape(node: Node, axes: readonly number[] | undefined, keep: boolean): readonly Dim[] | null {
  const data = shapeAt(node, 0);
  if (!data) return null;
  if (!axes) return keep ? data.map(() => null) : null;
  const gone = new Set(axes.map((axis) => normalAxis(axis, data.length)));
  return keep
    ? data.map((dim, axis) => (gone.has(axis) ? 1 : dim))
    : data.filter((_, axis) => !gone.has(axis));
}

function reduce(node: Node, scope: Scope, combine?: (a: Dim, b: Dim) => Dim, start: Dim = 0): Inferred {
  const dtype = dtypeAt(node, 0);
  const data = shapeAt(node, 0);
  const keep = node.int('keepdims', 1) !== 0;
  const given = integers(node, scope, 1, 'axes');
  const everything = given ? given.length === 0 : !node.inputs[1];
  if (everything && node.int('noop_with_empty_axes', 0) !== 0) return { dtype, shape: data };
  const axes = everything ? data?.map((_, axis) => axis) : given && isNumeric(given) ? given : undefined;
  const shape = reducedShape(node, axes, keep);
  const items = scope.items(node.inputs[0]);
  const integer = dtype === 'int64' || dtype === 'int32';
  if (!items || !combine || !integer || axes?.length !== data?.length) return { dtype, shape };
  return { dtype, shape, items: [items.reduce(combine, start)] };
}

const plain: Rule = (node, scope) => [reduce(node, scope)];

const position: Rule = (node) => [
  {
    dtype: 'int64',
    shape: reducedShape(node, [node.int('axis', 0)], node.int('keepdims', 1) !== 0),
  },
];

/** Reductions over axes. */
export const reductionRules: Readonly<Record<string, Rule>> = {
  ReduceSum: (node, scope) => [reduce(node, scope, add, 0)],
  ReduceProd: (node, scope) => [reduce(node, scope, multiply, 1)],
  ReduceMean: plain,
  ReduceMax: plain,
  ReduceMin: plain,
  ReduceL1: plain,
  ReduceL2: plain,
  ReduceLogSum: plain,
  ReduceLogSumExp: plain,
  ReduceSumSquare: plain,
  ArgMax: position,
  ArgMin: position,
};
