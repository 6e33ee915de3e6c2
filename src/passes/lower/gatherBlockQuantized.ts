import type { Value } from '../../onnx/graph.ts';
import { Tensor } from '../../onnx/tensor.ts';
import type { Lowering, Site } from './lowering.ts';

/**
 * com.microsoft GatherBlockQuantized over rows: data uint8 [V, K*bits/8] packed low bits first (or uint4
 * [V, K]), indices, scales
 * [V, K/blockSize], zero_points? packed like data -> [...indices, K]. Rows are gathered packed and then unpacked.
 */
export const gatherBlockQuantized: Lowering = (node, at) => {
  const [indices, scales] = [at.input(1), at.input(2)];
  const bits = node.int('bits', 4);
  const block = node.int('block_size', 128);
  const typed = at.input(0).dtype === 'uint4';
  const data = typed ? packedBytes(at, at.input(0)) : at.input(0);
  if (data.dtype !== 'uint8') at.refuse(`its table is ${data.dtype}`);
  if (at.shape(data).length !== 2 || node.int('gather_axis', 0) !== 0)
    at.refuse('it does not gather the rows of a matrix');
  if (![1, -1].includes(node.int('quantize_axis', 1))) at.refuse('its blocks do not lie along the rows');
  const width = (at.known(data, 1) * 8) / bits;
  const blocks = Math.ceil(width / block);
  if (width % block !== 0) at.refuse('its last block is not full');
  const rows = (table: Value) => at.op('Gather', [table, indices], { axis: 0 });
  const lead = at.shape(indices).map(() => 0);
  const quantized = at.reshape(unpack(at, rows(data), bits, width), [...lead, blocks, block]);
  const points = node.inputs[3];
  const zero = points
    ? at.unsqueeze(unpack(at, rows(typed ? packedBytes(at, points) : points), bits, blocks), [-1])
    : at.scalar(typed ? 0 : 2 ** (bits - 1));
  const scale = at.unsqueeze(rows(scales), [-1]);
  const values = at.op('Mul', [at.op('Sub', [quantized, zero]), scale]);
  return [at.reshape(values, [...lead, width])];
};

/** A constant of type uint4 [V, n] as bytes [V, n / 2], two elements each; rows of odd length get one more. */
function packedBytes(at: Site, table: Value): Value {
  const tensor = table.initializer ?? at.refuse(`'${table.name}' is not a constant`);
  const [rows, width] = tensor.dims as [number, number];
  return at.once(`bytes ${table.name}`, () => {
    const elements = tensor.toNumbers();
    const rowBytes = Math.ceil(width / 2);
    const bytes = new Uint8Array(rows * rowBytes);
    elements.forEach((element, i) => {
      const column = i % width;
      bytes[Math.floor(i / width) * rowBytes + (column >> 1)]! |= element << (4 * (column & 1));
    });
    return at.graph.constant(`${table.name}/bytes`, new Tensor('uint8', [rows, rowBytes], bytes));
  });
}

/** The first `count` elements of packed bytes [..., bytes] as float32 [..., count]. */
function unpack(at: Site, packed: Value, bits: number, count: number): Value {
  let rest = at.cast(packed, 'float32');
  const parts: Value[] = [];
  const radix = at.scalar(2 ** bits);
  for (let i = 0; i < 8 / bits; i++) {
    const higher = at.op('Floor', [at.op('Div', [rest, radix])]);
    parts.push(at.unsqueeze(at.op('Sub', [rest, at.op('Mul', [higher, radix])]), [-1]));
    rest = higher;
  }
  const lead = at
    .shape(packed)
    .slice(0, -1)
    .map(() => 0);
  const all = at.reshape(at.op('Concat', parts, { axis: -1 }), [...lead, -1]);
  return at.slice(all, -1, 0, count);
}
