import type { Builder } from '../onnx/builder.ts';
import type { Dim, Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';

/** Outputs of an encoder without a head that a classifier may read, in order of preference. */
export const encoderOutputs = [
  'last_hidden_state',
  'sentence_embedding',
  'token_embeddings',
  'hidden_states',
] as const;

/** How a classifier reads an encoder: the first position, the mean over real tokens, or what is pooled already. */
export type Pooling = 'cls' | 'mean' | 'none';

/** [B, T, H] -> [B, H]: the first position, or the mean over the positions that the mask keeps. */
export function pool(
  mask: Value | null,
  builder: Builder,
  opsets: ReadonlyMap<string, number>,
  hidden: Value,
  pooling: 'cls' | 'mean',
): Value {
  const [batch, , width] = hidden.shape ?? [null, null, null];
  const shape: readonly Dim[] = [batch ?? null, width ?? null];
  if (pooling === 'cls')
    return builder.op('Gather', [hidden, builder.constant('first', Tensor.int64([0], []))], {
      attributes: { axis: 1 },
      dtype: 'float32',
      shape,
    });
  const axis = builder.ints([1]);
  const opset = opsets.get('') ?? 0;
  const sum = (value: Value) =>
    builder.op('ReduceSum', [value, axis], { attributes: { keepdims: 0 }, dtype: 'float32' });
  if (!mask)
    return opset < 18
      ? builder.op('ReduceMean', [hidden], {
          attributes: { axes: [1], keepdims: 0 },
          dtype: 'float32',
          shape,
        })
      : builder.op('ReduceMean', [hidden, axis], { attributes: { keepdims: 0 }, dtype: 'float32', shape });
  const keep = builder.op(
    'Unsqueeze',
    [builder.op('Cast', [mask], { attributes: { to: 1 }, dtype: 'float32' }), builder.ints([2])],
    {
      dtype: 'float32',
    },
  );
  const total = sum(builder.op('Mul', [hidden, keep], { dtype: 'float32', shape: hidden.shape }));
  return builder.op('Div', [total, sum(keep)], { dtype: 'float32', shape });
}
