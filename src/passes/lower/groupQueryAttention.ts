import type { Value } from '../../onnx/graph.ts';
import { Tensor } from '../../onnx/tensor.ts';
import { causalBias, fromHeads, scaledDotProduct, toHeads } from './attentionCore.ts';
import type { Lowering, Site } from './lowering.ts';
import { rmsNormalize } from './normalization.ts';
import { firstRows, rotate } from './rotary.ts';

/**
 * com.microsoft GroupQueryAttention without a cache: query [B, S, H*D] (or packed q | k | v), key and value
 * [B, S, K*D] -> [B, S, H*D], key after rotation and value [B, K, S, D].
 *
 * Sequences are padded on the right, as the operator itself demands: then the causal mask keeps padding from every
 * real position, and `seqlens_k` and `total_sequence_length` say nothing more. Rows of padding come out otherwise
 * than from the kernel, which does not define them.
 */
export const groupQueryAttention: Lowering = (node, at) => {
  const heads = node.int('num_heads', 0);
  const keyHeads = node.int('kv_num_heads', 0);
  at.noCache(3, 2);
  at.noCache(4, 2);
  at.unread(3, 'output_qk');
  if (heads === 0 || keyHeads === 0) at.refuse('num_heads or kv_num_heads is missing');

  const packed = !node.inputs[1];
  const input = at.input(0);
  const size = at.known(input, -1) / (packed ? heads + 2 * keyHeads : heads);
  const [q, k, v] = packed
    ? (at.split(input, [heads * size, keyHeads * size, keyHeads * size], 2) as [Value, Value, Value])
    : [input, at.input(1), at.input(2)];
  let query = toHeads(at, q, heads, size);
  let key = toHeads(at, k, keyHeads, size);
  const value = toHeads(at, v, keyHeads, size);

  const [queryNorm, keyNorm] = [node.inputs[14], node.inputs[15]];
  if (queryNorm && keyNorm) {
    const epsilon = node.float('qk_norm_epsilon', 1e-6);
    query = rmsNormalize(at, query, queryNorm, epsilon);
    key = rmsNormalize(at, key, keyNorm, epsilon);
  }
  if (node.int('do_rotary', 0) !== 0) {
    const turn = rotation(at, query, size);
    query = turn(query);
    key = turn(key);
  }
  const causal = node.int('causal', 1) !== 0;
  const biases = [
    ...(causal ? [causalBias(at, query, key, node.int('local_window_size', -1))] : []),
    ...(node.inputs[10] ? [node.inputs[10]] : []),
  ];
  const smooth = node.int('smooth_softmax', 0) === 1;
  const sink =
    node.inputs[11] ?? (smooth ? at.constant('sink', Tensor.float32(new Float32Array(heads))) : undefined);
  const scale = node.float('scale', 0) || 1 / Math.sqrt(size);
  const softcap = node.float('softcap', 0);
  const parts = { query, key, value, heads, keyHeads, valueSize: size, scale, softcap, biases, sink };
  return [fromHeads(at, scaledDotProduct(at, parts), heads * size), key, value].slice(0, node.outputs.length);
};

/** Rotation by place in the sequence, from the tables [positions, width/2] of inputs 7 and 8. */
function rotation(at: Site, query: Value, size: number): (x: Value) => Value {
  const [cosines, sines] = [at.input(7), at.input(8)];
  const cos = firstRows(at, cosines, query, 2);
  const sin = firstRows(at, sines, query, 2);
  const interleaved = at.node.int('rotary_interleaved', 0) !== 0;
  return (x) => rotate(at, x, { cos, sin, size, width: 2 * at.known(cosines, -1), interleaved });
}
