import { AloraError } from '../errors.ts';
import type { Node, Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import type { LinearModule, ModuleUse } from './module.ts';
import { constantOf, setConstant } from './targets.ts';

/** A quantised weight: element i is (q[i] - zeros[g]) * scales[g], g = group(i). */
export interface QuantGrid {
  /** The constant that holds the integers. */
  readonly value: Value;
  /** Of the matrix as it is stored. */
  readonly rows: number;
  readonly columns: number;
  readonly layout: 'in-out' | 'out-in';
  readonly q: ArrayLike<number>;
  readonly scales: Float32Array;
  readonly zeros: ArrayLike<number>;
  group(index: number): number;
  /** Range of the integers. */
  readonly lowest: number;
  readonly highest: number;
  /** Whether the file stores zero points that may be chosen anew. */
  readonly freeZeros: boolean;
  /** A scale as the file's type holds it. */
  round(scale: number): number;
  store(q: ArrayLike<number>, scales: ArrayLike<number>, zeros: ArrayLike<number>): void;
}

/** How a layer's weight is quantised; undefined for a form that cannot be written again. */
export function gridOf({ node, weight }: ModuleUse): QuantGrid | undefined {
  if (node.op === 'MatMulNBits') return packedGrid(node);
  const { value, tensor, layout } = weight;
  const source = quantiserOf(node);
  const scale = constantOf(source?.scale);
  if (!source || !scale || tensor.dims.length !== 2 || !/^u?int[48]$/.test(tensor.dtype)) return undefined;
  const zero = constantOf(source.zero);
  if (source.zero && !zero) return undefined;
  const [rows, columns] = tensor.dims as [number, number];
  const group = groupsOf(scale.tensor, rows, columns, source.axis, source.block);
  if (!group) return undefined;
  const bits = tensor.dtype.endsWith('4') ? 4 : 8;
  const signed = tensor.dtype.startsWith('int');
  const zeros = zero?.tensor.toNumbers();
  const count = scale.tensor.size;
  return {
    value,
    rows,
    columns,
    layout,
    q: tensor.toNumbers(),
    scales: scale.tensor.toFloat32(),
    zeros: Array.from({ length: count }, (_, i) => zeros?.[zeros.length === 1 ? 0 : i] ?? 0),
    group,
    lowest: signed ? -(2 ** (bits - 1)) : 0,
    highest: signed ? 2 ** (bits - 1) - 1 : 2 ** bits - 1,
    // All in the middle of the range: a symmetric format, whose zero points stay there.
    freeZeros: zeros?.length === count && zeros.some((point) => point !== (signed ? 0 : 2 ** (bits - 1))),
    round: rounding(scale.tensor),
    store(q, scales, points) {
      setConstant(value, Tensor.of(tensor.dtype, q, tensor.dims));
      setConstant(scale.value, Tensor.of(scale.tensor.dtype, scales, scale.tensor.dims));
      // One zero point may serve all channels, and then is not chosen anew.
      if (zero && zero.tensor.size === points.length)
        setConstant(zero.value, Tensor.of(zero.tensor.dtype, points, zero.tensor.dims));
    },
  };
}

/** The numbers that a grid stands for, in its layout. */
export function dequantised({ q, scales, zeros, group }: QuantGrid): Float32Array {
  return Float32Array.from({ length: q.length }, (_, i) => {
    const g = group(i);
    return (q[i]! - zeros[g]!) * scales[g]!;
  });
}

/** The weight of a head as floats, quantised or not. Errors: MODEL_HEAD_FORM. */
export function headWeight(head: LinearModule): {
  readonly values: Float32Array;
  readonly layout: 'in-out' | 'out-in';
} {
  const { storage, tensor, layout } = head.weight;
  if (storage === 'float') return { values: tensor.toFloat32(), layout };
  const grid = gridOf(head);
  if (grid) return { values: dequantised(grid), layout: grid.layout };
  throw new AloraError('model', 'MODEL_HEAD_FORM', 'The weight of a head is quantised in an unknown form', {
    where: head.name,
    got: `${head.node.op} with ${tensor.dtype}`,
    allowed: 'floats, int8 or uint8 per matrix or channel, 4 or 8 bits in blocks',
    fix: 'Name another file of the model in model.file, or merge the adapter into this one.',
  });
}

const rounding = (scale: Tensor) => (value: number) => Tensor.of(scale.dtype, [value], []).toFloat32()[0]!;

interface Quantiser {
  readonly scale: Value | null | undefined;
  readonly zero: Value | null | undefined;
  readonly axis: number;
  readonly block: number;
  /** The nodes that read them. */
  readonly readers: readonly Node[];
}

/** Scale and zero point of the weight behind a product. */
export function quantiserOf(node: Node): Quantiser | undefined {
  const perColumn = { axis: 1, block: 0, readers: [node] };
  switch (node.op) {
    case 'MatMulNBits':
      return {
        scale: node.inputs[2],
        zero: node.inputs[3],
        axis: 1,
        block: node.int('block_size', 0),
        readers: [node],
      };
    case 'DynamicQuantizeMatMul':
      return { scale: node.inputs[2], zero: node.inputs[3], ...perColumn };
    case 'MatMulIntegerToFloat':
      return { scale: node.inputs[3], zero: node.inputs[5], ...perColumn };
    case 'MatMulInteger': {
      const [cast] = node.output.users;
      const [scaled] = cast?.output.users ?? [];
      const product = scaled?.inputs.find((value) => value !== cast?.output)?.producer;
      const scale = product?.inputs.find((value) => constantOf(value));
      return { scale, zero: node.inputs[3], ...perColumn, readers: product ? [node, product] : [node] };
    }
    default: {
      let producer = node.inputs[1]?.producer;
      while (producer && /^(Transpose|Identity|Cast)$/.test(producer.op))
        producer = producer.inputs[0]?.producer;
      if (producer?.op !== 'DequantizeLinear') return undefined;
      const axis = producer.int('axis', 1);
      const block = producer.int('block_size', 0);
      const [, scale, zero] = producer.inputs;
      return { scale, zero, axis: axis < 0 ? axis + 2 : axis, block, readers: [producer] };
    }
  }
}

/** Which scale an element of a [rows, columns] matrix has: one for all, one along an axis, or one a block. */
function groupsOf(
  scale: Tensor,
  rows: number,
  columns: number,
  axis: number,
  block: number,
): ((index: number) => number) | undefined {
  if (scale.size === 1) return () => 0;
  const at = (index: number) => [Math.floor(index / columns), index % columns] as const;
  if (block > 0 && scale.dims.length === 2) {
    const width = scale.dims[1]!;
    return (index) => {
      const [row, column] = at(index);
      return axis === 0 ? Math.floor(row / block) * width + column : row * width + Math.floor(column / block);
    };
  }
  if (scale.size !== (axis === 0 ? rows : columns)) return undefined;
  return (index) => at(index)[axis === 0 ? 0 : 1];
}

/** com.microsoft MatMulNBits: rows of packed bytes, low bits first, blocks along K (see lower/matMulNBits.ts). */
function packedGrid(node: Node): QuantGrid | undefined {
  const [K, N, bits, block] = ['K', 'N', 'bits', 'block_size'].map((name) =>
    node.int(name, name === 'bits' ? 4 : 0),
  ) as [number, number, number, number];
  const [, weight, scale, zero] = node.inputs;
  const [packed, scaleTensor, zeroTensor] = [weight, scale, zero].map((value) => value?.initializer);
  if (!weight || !scale || !packed || !scaleTensor || ![4, 8].includes(bits) || node.inputs[4])
    return undefined;
  if (node.int('weight_prepacked', 0) !== 0 || (zero && zeroTensor?.dtype !== 'uint8')) return undefined;
  const blocks = Math.ceil(K / block);
  const rowBytes = (blocks * block * bits) / 8;
  const zeroRow = Math.ceil((blocks * bits) / 8);
  return {
    value: weight,
    rows: N,
    columns: K,
    layout: 'out-in',
    q: unpacked(packed.bytes(), N, K, rowBytes, bits),
    scales: scaleTensor.toFloat32(),
    zeros: zeroTensor
      ? unpacked(zeroTensor.bytes(), N, blocks, zeroRow, bits)
      : new Uint8Array(N * blocks).fill(2 ** (bits - 1)),
    group: (index) => Math.floor(index / K) * blocks + Math.floor((index % K) / block),
    lowest: 0,
    highest: 2 ** bits - 1,
    freeZeros: zeroTensor !== undefined && zeroTensor !== null,
    round: rounding(scaleTensor),
    store(q, scales, zeros) {
      weight.initializer = new Tensor(
        'uint8',
        packed.dims,
        repacked(packed.bytes(), q, N, K, rowBytes, bits),
      );
      scale.initializer = Tensor.of(scaleTensor.dtype, scales, scaleTensor.dims);
      if (zero && zeroTensor) {
        const bytes = repacked(zeroTensor.bytes(), zeros, N, blocks, zeroRow, bits);
        zero.initializer = new Tensor('uint8', zeroTensor.dims, bytes);
      }
    },
  };
}

function unpacked(
  bytes: Uint8Array,
  rows: number,
  columns: number,
  rowBytes: number,
  bits: number,
): Uint8Array {
  const out = new Uint8Array(rows * columns);
  const mask = 2 ** bits - 1;
  for (let row = 0; row < rows; row++)
    for (let i = 0; i < columns; i++)
      out[row * columns + i] = (bytes[row * rowBytes + ((i * bits) >> 3)]! >> ((i * bits) & 7)) & mask;
  return out;
}

/** A copy of the bytes with other elements; what fills up a row stays. */
function repacked(
  bytes: Uint8Array,
  values: ArrayLike<number>,
  rows: number,
  columns: number,
  rowBytes: number,
  bits: number,
): Uint8Array {
  const out = bytes.slice();
  const mask = 2 ** bits - 1;
  for (let row = 0; row < rows; row++)
    for (let i = 0; i < columns; i++) {
      const at = row * rowBytes + ((i * bits) >> 3);
      const shift = (i * bits) & 7;
      out[at] = (out[at]! & ~(mask << shift)) | (values[row * columns + i]! << shift);
    }
  return out;
}
