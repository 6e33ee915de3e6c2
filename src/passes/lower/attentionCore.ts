import type { Dim, Value } from '../../onnx/graph.ts';
import type { Site } from './lowering.ts';

/** B = batch, H = query heads, K = key heads, G = H / K, S = queries, T = keys, D = size of a head. */
export interface AttentionParts {
  /** [B, H, S, D] */
  readonly query: Value;
  /** [B, K, T, D] */
  readonly key: Value;
  /** [B, K, T, Dv] */
  readonly value: Value;
  readonly heads: number;
  readonly keyHeads: number;
  /** Dv */
  readonly valueSize: number;
  readonly scale: number;
  /** c tanh(s / c) on the scores; 0: none. */
  readonly softcap?: number;
  /** Added to the scores, broadcast to [B, H, S, T]; masks come in this form. */
  readonly biases: readonly Value[];
  /** [H]: a further logit of each head that takes attention and gives no value. */
  readonly sink?: Value;
}

/** What takes a score out of the softmax. Finite, so that a row without keys is not NaN. */
export const masked = -3.4028234663852886e38;

/** softmax(scale Q K^T + biases) V: [B, H, S, Dv], with each key head serving G query heads. */
export function scaledDotProduct(at: Site, parts: AttentionParts): Value {
  const { heads, keyHeads } = parts;
  const grouped = heads !== keyHeads;
  // Heads that share keys are stacked along the queries: one larger product, and no copies of keys and values.
  const stack = (x: Value) => (grouped ? at.reshape(x, [0, keyHeads, -1, 0]) : x);
  const unstack = (x: Value) => (grouped ? at.reshape(x, [0, heads, -1, 0]) : x);
  const query = at.op('Mul', [parts.query, at.scalar(parts.scale)]);
  let scores = unstack(at.op('MatMul', [stack(query), at.transpose(parts.key, [0, 1, 3, 2])]));
  if (parts.softcap) {
    const cap = at.scalar(parts.softcap);
    scores = at.op('Mul', [at.op('Tanh', [at.op('Div', [scores, cap])]), cap]);
  }
  for (const bias of parts.biases) scores = at.op('Add', [scores, bias]);
  const weights = parts.sink
    ? softmaxWithSink(at, scores, parts.sink)
    : at.op('Softmax', [scores], { axis: -1 });
  return unstack(at.op('MatMul', [stack(weights), parts.value]));
}

/** Softmax over T keys and one more logit, of which only the keys' share is kept. */
function softmaxWithSink(at: Site, scores: Value, sink: Value): Value {
  const first = at.slice(scores, 3, 0, 1);
  const logit = at.reshape(sink, [1, -1, 1, 1]);
  const column = at.op('Add', [at.op('Mul', [first, at.scalar(0)]), logit]);
  const all = at.op('Softmax', [at.op('Concat', [scores, column], { axis: 3 })], { axis: -1 });
  return at.slice(all, 3, 0, -1);
}

/** [B, S, H*D] as [B, H, S, D]. */
export function toHeads(at: Site, x: Value, heads: number, size: number): Value {
  return at.transpose(at.reshape(x, [0, 0, heads, size]), [0, 2, 1, 3]);
}

/** [B, H, S, D] as [B, S, H*D]. */
export function fromHeads(at: Site, x: Value, width: number): Value {
  return at.reshape(at.transpose(x, [0, 2, 1, 3]), [0, 0, width]);
}

const lengthKey = (dim: Dim | undefined, x: Value) => (dim === null || dim === undefined ? x.name : `${dim}`);

/**
 * [S, T] float32: 0 where query i may see key j, else `value`: j <= i + (T - S), and j > i + (T - S) - window where
 * a window is given. `queries` and `keys` are [B, heads, S, D] and [B, heads, T, D].
 */
export function causalBias(at: Site, queries: Value, keys: Value, window = -1, value = masked): Value {
  const [s, t] = [at.shape(queries)[2], at.shape(keys)[2]];
  const key = `causal ${lengthKey(s, queries)} ${lengthKey(t, keys)} ${window} ${value}`;
  return at.once(key, () => {
    const [rows, columns] = [at.length(queries, 2), at.length(keys, 2)];
    const row = at.unsqueeze(at.op('Range', [at.op('Sub', [columns, rows]), columns, at.int(1)]), [1]);
    const column = at.unsqueeze(at.op('Range', [at.int(0), columns, at.int(1)]), [0]);
    let seen = at.op('LessOrEqual', [column, row]);
    if (window > 0)
      seen = at.op('And', [seen, at.op('Greater', [column, at.op('Sub', [row, at.int(window)])])]);
    return at.op('Where', [seen, at.scalar(0), at.scalar(value)]);
  });
}

/** Additive form of an integer or boolean mask: 0 where it is not 0, else `value`; the shape stays. */
export function maskBias(at: Site, mask: Value, value = masked): Value {
  return at.once(`mask ${mask.name} ${value}`, () =>
    at.op('Where', [mask.dtype === 'bool' ? mask : at.cast(mask, 'bool'), at.scalar(0), at.scalar(value)]),
  );
}

/** [B, 1, 1, T] float32 from lengths [B]: 0 for keys before the length, else `value`. */
export function lengthBias(at: Site, lengths: Value, keys: Value, value = masked): Value {
  const column = at.op('Range', [at.int(0), at.length(keys, 2), at.int(1)]);
  const seen = at.op('Less', [column, at.reshape(at.cast(lengths, 'int64'), [-1, 1, 1, 1])]);
  return at.op('Where', [seen, at.scalar(0), at.scalar(value)]);
}
