import type { Value } from '../../onnx/graph.ts';
import type { Lowering, Site } from './lowering.ts';
import { rotate } from './rotary.ts';

/**
 * x [B, S, H*D] or [B, H, S, D]; cos and sin already chosen by position, [B or 1, S, width/2]. `headSize` where x
 * has its heads in one axis.
 */
function turn(at: Site, x: Value, cos: Value, sin: Value, headSize: number, width: number): Value {
  const interleaved = at.node.int('interleaved', 0) !== 0;
  if (at.shape(x).length === 4)
    return rotate(at, x, {
      cos: at.unsqueeze(cos, [1]),
      sin: at.unsqueeze(sin, [1]),
      size: headSize,
      width,
      interleaved,
    });
  const total = at.known(x, -1);
  const heads = at.reshape(x, [0, 0, total / headSize, headSize]);
  const turned = rotate(at, heads, {
    cos: at.unsqueeze(cos, [2]),
    sin: at.unsqueeze(sin, [2]),
    size: headSize,
    width,
    interleaved,
  });
  return at.reshape(turned, [0, 0, total]);
}

/** Size of a head: the last axis of four, or the width shared out to `num_heads`, or twice the table's width. */
function headSizeOf(at: Site, x: Value, tableWidth: number): number {
  if (at.shape(x).length === 4) return at.known(x, -1);
  const heads = at.node.int('num_heads', 0);
  return heads > 0 ? at.known(x, -1) / heads : 2 * tableWidth;
}

/** com.microsoft: x, position_ids ([B, S], or [1]: where the sequence starts), cos and sin tables [P, width/2]. */
export const contribRotaryEmbedding: Lowering = (node, at) => {
  const [x, positions, cos, sin] = [0, 1, 2, 3].map((i) => at.input(i)) as [Value, Value, Value, Value];
  if (node.float('scale', 1) !== 1) at.refuse('it scales');
  if (node.int('is_packed_batching', 0) !== 0) at.refuse('its batch is packed');
  const width = 2 * at.known(cos, -1);
  const headSize = headSizeOf(at, x, width / 2);
  let ids = positions;
  if (at.shape(positions).length === 1) {
    const axis = at.shape(x).length === 4 ? 2 : 1;
    const range = at.op('Range', [at.int(0), at.length(x, axis), at.int(1)]);
    ids = at.unsqueeze(at.op('Add', [range, positions]), [0]);
  }
  const chosen = (table: Value) =>
    at.once(`rotary ${table.name} ${positions.name}`, () => at.op('Gather', [table, ids], { axis: 0 }));
  return [turn(at, x, chosen(cos), chosen(sin), headSize, width)];
};

/** ai.onnx 23: x, cos, sin (tables with position_ids, else [B, S, width/2]), position_ids? [B, S]. */
export const rotaryEmbedding: Lowering = (node, at) => {
  const [x, cos, sin] = [0, 1, 2].map((i) => at.input(i)) as [Value, Value, Value];
  const positions = node.inputs[3];
  const width = node.int('rotary_embedding_dim', 0) || 2 * at.known(cos, -1);
  const headSize = headSizeOf(at, x, width / 2);
  const chosen = (table: Value) =>
    positions
      ? at.once(`rotary ${table.name} ${positions.name}`, () =>
          at.op('Gather', [table, positions], { axis: 0 }),
        )
      : table;
  return [turn(at, x, chosen(cos), chosen(sin), headSize, width)];
};
