import type { Builder } from '../onnx/builder.ts';
import type { Attribute, Dim, Node, Value } from '../onnx/graph.ts';
import { isNumeric, normalAxis } from './inference/rule.ts';

/** How the rewritten node reads an input of the original. */
export type Role =
  /** Only the chosen rows of it. */
  | 'rows'
  /** One row for each chosen row's example: [batch, 1, ...]. */
  | 'example'
  /** One row for each chosen row's place in its example: [1, length, ...]. */
  | 'position'
  /** Whole and unchanged: it does not depend on the position. */
  | 'kept'
  /** Not at all. */
  | 'unused';

export interface RowPlan {
  readonly roles: readonly Role[];
  /** The node on rows [n, ...]; gets the inputs in the form that their roles say. */
  emit(make: Builder, inputs: readonly (Value | null)[]): readonly (Value | null)[];
}

/** Number of leading axes that count positions, [batch, length] or [batch*length]; undefined if they do not. */
export type LeadOf = (value: Value | null | undefined) => number | undefined;

/** How to compute the node on chosen rows alone; undefined where it mixes positions or is not known. */
export type RowRule = (node: Node, leadOf: LeadOf) => RowPlan | undefined;

/** Axes that follow the position, as the rows [n, ...] count them; undefined when one is a position axis. */
function trailing(axes: readonly number[], rank: number, lead: number): number[] | undefined {
  const normal = axes.map((axis) => normalAxis(axis, rank));
  return normal.every((axis) => axis >= lead) ? normal.map((axis) => axis - lead + 1) : undefined;
}

const rest = (value: Value, lead: number): Dim[] => value.shape!.slice(lead);

/** The same operator with the same attributes, some of them replaced. */
function again(
  make: Builder,
  node: Node,
  inputs: readonly (Value | null)[],
  replaced: Readonly<Record<string, Attribute>> = {},
): readonly (Value | null)[] {
  const copy = make.node(node.op, inputs, node.outputs.length, {
    name: node.name || node.op,
    domain: node.domain,
    attributes: { ...Object.fromEntries(node.attributes), ...replaced },
  });
  copy.metadata = node.metadata;
  return copy.outputs;
}

const int = (value: number): Attribute => ({ type: 'int', value });
const ints = (value: readonly number[]): Attribute => ({ type: 'ints', value });

/** How an input aligned by broadcasting takes part; undefined where it mixes positions. */
function roleInBroadcast(input: Value, output: Value, lead: number): Role | undefined {
  if (!input.shape) return undefined;
  const missing = output.shape!.length - input.shape.length;
  const own = output
    .shape!.slice(0, lead)
    .map((_, axis) => (axis < missing ? 1 : input.shape![axis - missing]!));
  const full = output.shape!.slice(0, lead);
  if (own.every((dim, axis) => dim !== null && dim === full[axis])) return missing === 0 ? 'rows' : undefined;
  if (own.every((dim) => dim === 1)) return 'kept';
  if (lead !== 2) return undefined;
  if (own[0] === full[0] && own[1] === 1) return 'example';
  return own[0] === 1 && own[1] === full[1] ? 'position' : undefined;
}

/** Element by element, with broadcasting. */
const elementwise: RowRule = (node, leadOf) => {
  const output = node.output;
  const lead = leadOf(output);
  if (lead === undefined) return undefined;
  const roles = node.inputs.map((value) => (value ? roleInBroadcast(value, output, lead) : 'unused'));
  if (roles.includes(undefined) || !roles.includes('rows')) return undefined;
  const tail = output.shape!.length - lead;
  return {
    roles: roles as Role[],
    emit: (make, inputs) =>
      again(
        make,
        node,
        inputs.map((value, i) => {
          // [1, 1, d] would stretch [n, d] to [1, n, d].
          const extra = value?.shape && roles[i] === 'kept' ? value.shape.length - tail - 1 : 0;
          return extra > 0
            ? make.op('Squeeze', [value!, make.ints(Array.from({ length: extra }, (_, axis) => axis))])
            : value;
        }),
      ),
  };
};

/** Works within each position of the first input; whatever else it reads is kept. */
const perPosition =
  (axes: (node: Node, rank: number) => readonly number[], attribute: string): RowRule =>
  (node, leadOf) => {
    const input = node.inputs[0];
    const lead = leadOf(input);
    if (!input || lead === undefined) return undefined;
    const moved = trailing(axes(node, input.shape!.length), input.shape!.length, lead);
    if (!moved || node.outputs.slice(1).some((value) => value && value.users.size > 0)) return undefined;
    return {
      roles: node.inputs.map((_, i) => (i === 0 ? 'rows' : 'kept')),
      emit: (make, inputs) => again(make, node, inputs, { [attribute]: int(moved[0]!) }).slice(0, 1),
    };
  };

const axisOf = (otherwise: number) => (node: Node) => [node.int('axis', otherwise)];

/** Inputs with scale and zero point of an integer x. */
const scalesOfX: Readonly<Record<string, readonly number[]>> = {
  MatMulInteger: [2],
  MatMulIntegerToFloat: [2, 4],
};

/** x [..., K] times a matrix [K, N] (or [N, K], or packed) that all positions share. */
const product: RowRule = (node, leadOf) => {
  const [x, weight] = node.inputs;
  const lead = leadOf(x);
  if (!x || lead === undefined || x.shape!.length <= lead) return undefined;
  if (node.op !== 'MatMulNBits' && weight?.shape?.length !== 2) return undefined;
  // What scales x has one range for all positions.
  if (scalesOfX[node.op]?.some((i) => (node.inputs[i]?.shape?.length ?? 0) > 0)) return undefined;
  if (['transA', 'transBatchA', 'transBatchB'].some((name) => node.int(name, 0) !== 0)) return undefined;
  return {
    roles: node.inputs.map((_, i) => (i === 0 ? 'rows' : 'kept')),
    emit: (make, inputs) => again(make, node, inputs),
  };
};

const gemm: RowRule = (node, leadOf) => {
  const [x, , bias] = node.inputs;
  if (leadOf(x) !== 1 || node.int('transA', 0) !== 0) return undefined;
  const biasRole = bias ? roleInBroadcast(bias, node.output, 1) : 'unused';
  if (biasRole !== 'kept' && biasRole !== 'rows' && biasRole !== 'unused') return undefined;
  return {
    roles: node.inputs.map((_, i) => (i === 0 ? 'rows' : i === 1 ? 'kept' : biasRole)),
    emit: (make, inputs) => again(make, node, inputs),
  };
};

const reduce: RowRule = (node, leadOf) => {
  const [x, given] = node.inputs;
  const lead = leadOf(x);
  const axes = given ? given.initializer?.toNumbers() : node.ints('axes');
  if (!x || lead === undefined || !axes?.length) return undefined;
  const moved = trailing(axes, x.shape!.length, lead);
  if (!moved) return undefined;
  return {
    roles: ['rows', 'unused'],
    emit: (make, [rows]) =>
      given
        ? again(make, node, [rows!, make.ints(moved)])
        : again(make, node, [rows!], { axes: ints(moved) }),
  };
};

/** Rows in another shape: the positions stay in front, whether they are one axis or two. */
const reshape: RowRule = (node, leadOf) => {
  const input = node.inputs[0];
  const from = leadOf(input);
  const to = leadOf(node.output);
  if (!input || from === undefined || to === undefined) return undefined;
  const [before, after] = [rest(input, from), rest(node.output, to)];
  const same = before.length === after.length && before.every((dim, i) => dim !== null && dim === after[i]);
  if (!same && !isNumeric(after)) return undefined;
  return {
    roles: node.inputs.map((_, i) => (i === 0 ? 'rows' : 'unused')),
    // 0 copies the number of rows, none included.
    emit: (make, [rows]) => [
      same ? rows! : make.op('Reshape', [rows!, make.ints([0, ...(after as number[])])]),
    ],
  };
};

const transpose: RowRule = (node, leadOf) => {
  const input = node.inputs[0];
  const lead = leadOf(input);
  const perm = node.ints('perm');
  if (!input || lead === undefined || !perm) return undefined;
  if (!perm.slice(0, lead).every((axis, i) => axis === i)) return undefined;
  return {
    roles: ['rows'],
    emit: (make, inputs) =>
      again(make, node, inputs, { perm: ints([0, ...perm.slice(lead).map((axis) => axis - lead + 1)]) }),
  };
};

const split: RowRule = (node, leadOf) => {
  const input = node.inputs[0];
  const lead = leadOf(input);
  if (!input || lead === undefined) return undefined;
  const moved = trailing([node.int('axis', 0)], input.shape!.length, lead);
  if (!moved) return undefined;
  return {
    roles: node.inputs.map((_, i) => (i === 0 ? 'rows' : 'kept')),
    emit: (make, inputs) => again(make, node, inputs, { axis: int(moved[0]!) }),
  };
};

const slice: RowRule = (node, leadOf) => {
  const input = node.inputs[0];
  const lead = leadOf(input);
  const axes = node.inputs[3]?.initializer?.toNumbers();
  if (!input || lead === undefined || !axes) return undefined;
  const moved = trailing(axes, input.shape!.length, lead);
  if (!moved) return undefined;
  return {
    roles: node.inputs.map((_, i) => (i === 0 ? 'rows' : i === 3 ? 'unused' : 'kept')),
    emit: (make, inputs) => again(make, node, inputs.with(3, make.ints(moved))),
  };
};

const concat: RowRule = (node, leadOf) => {
  const lead = leadOf(node.output);
  if (lead === undefined || node.inputs.some((value) => leadOf(value) !== lead)) return undefined;
  const moved = trailing([node.int('axis', 0)], node.output.shape!.length, lead);
  if (!moved) return undefined;
  return {
    roles: node.inputs.map(() => 'rows'),
    emit: (make, inputs) => again(make, node, inputs, { axis: int(moved[0]!) }),
  };
};

/** Squeeze and Unsqueeze; the latter's axes count in the output. */
const axisMoving =
  (counts: (node: Node) => Value | null | undefined): RowRule =>
  (node, leadOf) => {
    const lead = leadOf(node.inputs[0]);
    const counted = counts(node);
    const axes = node.inputs[1]?.initializer?.toNumbers();
    if (lead === undefined || !counted?.shape || !axes) return undefined;
    const moved = trailing(axes, counted.shape.length, lead);
    if (!moved) return undefined;
    return {
      roles: ['rows', 'unused'],
      emit: (make, [rows]) => again(make, node, [rows!, make.ints(moved)]),
    };
  };

/** x and skip [..., D] with parameters [D]; outputs other than Y and the sum are per position and never read. */
const skipNorm: RowRule = (node, leadOf) => {
  const [x, skip] = node.inputs;
  const lead = leadOf(x);
  if (lead === undefined || leadOf(skip) !== lead) return undefined;
  if ([1, 2].some((i) => (node.outputs[i]?.users.size ?? 0) > 0)) return undefined;
  return {
    roles: node.inputs.map((_, i) => (i < 2 ? 'rows' : 'kept')),
    emit: (make, inputs) => again(make, node, inputs),
  };
};

const lastAxis = perPosition(axisOf(-1), 'axis');

const rules: Readonly<Record<string, RowRule>> = {
  ...Object.fromEntries(
    [
      ...['Abs', 'Acos', 'Atan', 'Cast', 'Ceil', 'Celu', 'Clip', 'Cos', 'Elu', 'Erf', 'Exp', 'Floor', 'Gelu'],
      ...['HardSigmoid', 'HardSwish', 'Identity', 'LeakyRelu', 'Log', 'Mish', 'Neg', 'Not', 'Reciprocal'],
      ...['Relu', 'Round', 'Selu', 'Sigmoid', 'Sign', 'Sin', 'Softplus', 'Softsign', 'Sqrt', 'Swish', 'Tanh'],
      ...['Add', 'Sub', 'Mul', 'Div', 'Pow', 'Mod', 'Max', 'Min', 'Sum', 'Mean', 'Where', 'And', 'Or', 'Xor'],
      ...['Equal', 'Greater', 'GreaterOrEqual', 'Less', 'LessOrEqual', 'PRelu', 'IsNaN', 'IsInf'],
      ...['Gelu', 'FastGelu', 'QuickGelu', 'BiasGelu'].map((op) => `com.microsoft.${op}`),
    ].map((op) => [op, elementwise]),
  ),
  ...Object.fromEntries(
    [
      'ReduceMean',
      'ReduceSum',
      'ReduceMax',
      'ReduceMin',
      'ReduceSumSquare',
      'ReduceL2',
      'ReduceLogSumExp',
    ].map((op) => [op, reduce]),
  ),
  MatMul: product,
  'com.microsoft.FusedMatMul': product,
  'com.microsoft.MatMulIntegerToFloat': product,
  'com.microsoft.MatMulNBits': product,
  MatMulInteger: product,
  Gemm: gemm,
  Softmax: lastAxis,
  LogSoftmax: lastAxis,
  LayerNormalization: lastAxis,
  RMSNormalization: lastAxis,
  SimplifiedLayerNormalization: lastAxis,
  'com.microsoft.SkipLayerNormalization': skipNorm,
  'com.microsoft.SkipSimplifiedLayerNormalization': skipNorm,
  Reshape: reshape,
  Flatten: reshape,
  Transpose: transpose,
  Split: split,
  Slice: slice,
  Concat: concat,
  Unsqueeze: axisMoving((node) => node.output),
  Squeeze: axisMoving((node) => node.inputs[0]),
};

export function rowRuleFor(node: Node): RowRule | undefined {
  return rules[node.domain === '' ? node.op : `${node.domain}.${node.op}`];
}
