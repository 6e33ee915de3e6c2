import { type DType, dtypeOf, isFloat } from '../../onnx/dtype.ts';
import type { Dim, Node } from '../../onnx/graph.ts';
import { add, compare, divide, isPositive, maximum, minimum, multiply, subtract } from '../symbolic.ts';
import { dtypeAt, elementwise, type Rule, type Scope, sameAsInput } from './rule.ts';

type Arithmetic = (a: Dim, b: Dim, dtype: DType | null) => Dim;

/** Numbers by `numbers`, lengths by `lengths`. */
const arithmetic =
  (numbers: (a: number, b: number) => number, lengths: (a: Dim, b: Dim) => Dim): Arithmetic =>
  (a, b) =>
    typeof a === 'number' && typeof b === 'number' ? numbers(a, b) : lengths(a, b);

const never = () => null;

const quotient: Arithmetic = (a, b, dtype) => {
  if (dtype !== null && isFloat(dtype)) return typeof a === 'number' && typeof b === 'number' ? a / b : null;
  return divide(a, b);
};

/** The sign of the divisor for ONNX's integer Mod (as in Python), that of the dividend for fmod. */
function remainder(node: Node): Arithmetic {
  const fmod = node.int('fmod', 0) === 1;
  return (a, b) => {
    if (typeof a !== 'number' || typeof b !== 'number' || b === 0) return null;
    return fmod ? a % b : ((a % b) + b) % b;
  };
}

const binary =
  (apply: Arithmetic): Rule =>
  (node, scope) => {
    const dtype = dtypeAt(node, 0);
    return [elementwise(node.inputs, dtype, scope, ([a, b]) => apply(a!, b!, dtype))];
  };

/** Any number of inputs, folded from the left. */
const variadic =
  (apply?: Arithmetic): Rule =>
  (node, scope) => {
    const dtype = dtypeAt(node, 0);
    return [
      elementwise(
        node.inputs,
        dtype,
        scope,
        apply && ((items) => items.reduce((a, b) => apply(a, b, dtype))),
      ),
    ];
  };

const comparison =
  (numbers: (a: number, b: number) => boolean, decided: (order: -1 | 0 | 1) => boolean): Rule =>
  (node, scope) => [
    elementwise(node.inputs, 'bool', scope, ([a, b]) => {
      if (typeof a === 'number' && typeof b === 'number') return Number(numbers(a, b));
      const order = compare(a!, b!);
      return order === null ? null : Number(decided(order));
    }),
  ];

const logical =
  (apply: (a: Dim, b: Dim) => Dim): Rule =>
  (node, scope) => [elementwise(node.inputs, 'bool', scope, ([a, b]) => apply(a!, b!))];

const unary =
  (apply: (x: number) => number | null, lengths: (x: Dim) => Dim = never): Rule =>
  (node, scope) => [
    elementwise([node.inputs[0] ?? null], dtypeAt(node, 0), scope, ([x]) =>
      typeof x === 'number' ? apply(x) : lengths(x!),
    ),
  ];

const predicate: Rule = (node, scope) => [elementwise([node.inputs[0] ?? null], 'bool', scope)];

function cast(node: Node, scope: Scope, target: DType | null) {
  const from = dtypeAt(node, 0);
  const known = target !== null && target !== 'float16' && target !== 'bfloat16' && target !== 'string';
  return elementwise(
    [node.inputs[0] ?? null],
    target,
    scope,
    known && from !== null
      ? ([x]) => {
          if (target === 'bool') {
            if (typeof x === 'number') return Number(x !== 0);
            return isPositive(x!) ? 1 : null;
          }
          if (typeof x !== 'number') return isFloat(target) ? null : x!;
          return isFloat(target) ? x : Math.trunc(x);
        }
      : undefined,
  );
}

/** To the nearest, halves to even; what rounds to 0 from below is -0. */
const round = (x: number) => {
  const floor = Math.floor(x);
  const rest = x - floor;
  const nearest = rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
  return nearest === 0 && x < 0 ? -0 : nearest;
};

const activations = Object.fromEntries(
  [
    ...[
      'Acos',
      'Acosh',
      'Asin',
      'Asinh',
      'Atan',
      'Atanh',
      'Celu',
      'Clip',
      'Cos',
      'Cosh',
      'Elu',
      'Erf',
      'Exp',
    ],
    ...['Gelu', 'HardSigmoid', 'HardSwish', 'LeakyRelu', 'Log', 'Mish', 'PRelu', 'Relu', 'Selu', 'Shrink'],
    ...['Sigmoid', 'Sin', 'Sinh', 'Softplus', 'Softsign', 'Swish', 'Tan', 'Tanh', 'ThresholdedRelu'],
    ...['Softmax', 'LogSoftmax', 'Hardmax', 'CumSum', 'LpNormalization', 'BitwiseNot', 'Trilu'],
    ...['com.microsoft.Gelu', 'com.microsoft.FastGelu', 'com.microsoft.QuickGelu', 'com.microsoft.BiasGelu'],
  ].map((op) => [op, sameAsInput]),
);

/** Operators that work element by element, with broadcasting. */
export const elementwiseRules: Readonly<Record<string, Rule>> = {
  ...activations,
  Abs: unary(Math.abs),
  Ceil: unary(Math.ceil),
  Floor: unary(Math.floor),
  Neg: unary(
    (x) => -x,
    (x) => subtract(0, x),
  ),
  Not: (node, scope) => [
    elementwise(node.inputs, 'bool', scope, ([x]) => (typeof x === 'number' ? Number(x === 0) : null)),
  ],
  Reciprocal: unary((x) => 1 / x),
  Round: unary(round),
  Sign: unary(Math.sign),
  Sqrt: unary(Math.sqrt),
  IsNaN: predicate,
  IsInf: predicate,

  Add: binary(arithmetic((a, b) => a + b, add)),
  Sub: binary(arithmetic((a, b) => a - b, subtract)),
  Mul: binary(arithmetic((a, b) => a * b, multiply)),
  Div: binary(quotient),
  Mod: (node, scope) => binary(remainder(node))(node, scope),
  // Powers are not rounded alike everywhere: only small integer powers of integers are computed.
  Pow: binary((a, b, dtype) =>
    typeof a === 'number' && typeof b === 'number' && dtype !== null && !isFloat(dtype) && b >= 0
      ? a ** b
      : null,
  ),
  Max: variadic(arithmetic(Math.max, maximum)),
  Min: variadic(arithmetic(Math.min, minimum)),
  Sum: variadic(),
  Mean: variadic(),
  BitShift: binary(never),
  BitwiseAnd: binary(never),
  BitwiseOr: binary(never),
  BitwiseXor: binary(never),

  Equal: comparison(
    (a, b) => a === b,
    (order) => order === 0,
  ),
  Greater: comparison(
    (a, b) => a > b,
    (order) => order > 0,
  ),
  GreaterOrEqual: comparison(
    (a, b) => a >= b,
    (order) => order >= 0,
  ),
  Less: comparison(
    (a, b) => a < b,
    (order) => order < 0,
  ),
  LessOrEqual: comparison(
    (a, b) => a <= b,
    (order) => order <= 0,
  ),
  And: logical((a, b) => (a === 0 || b === 0 ? 0 : a === 1 && b === 1 ? 1 : null)),
  Or: logical((a, b) => (a === 1 || b === 1 ? 1 : a === 0 && b === 0 ? 0 : null)),
  Xor: logical((a, b) => (typeof a === 'number' && typeof b === 'number' ? Number(a !== b) : null)),

  Where: (node, scope) => [
    elementwise(node.inputs, dtypeAt(node, 1), scope, ([condition, a, b]) =>
      condition === null ? (a === b ? a! : null) : condition === 0 ? b! : a!,
    ),
  ],
  Cast: (node, scope) => [cast(node, scope, dtypeOf(node.int('to', 0)) ?? null)],
  CastLike: (node, scope) => [cast(node, scope, dtypeAt(node, 1))],
  Dropout: (node) => [
    { dtype: dtypeAt(node, 0), shape: node.inputs[0]?.shape ?? null },
    { dtype: 'bool', shape: node.inputs[0]?.shape ?? null },
  ],
};
