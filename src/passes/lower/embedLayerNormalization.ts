import type { Lowering } from './lowering.ts';

/**
 * com.microsoft EmbedLayerNormalization: input_ids [B, S], segment_ids?, tables of words, positions and segments?, gamma,
 * beta, mask [B, S]?, position_ids? -> LayerNormalization of the embeddings' sum [B, S, D]; the number of tokens of each
 * row [B] (0 without a mask); the sum.
 */
export const embedLayerNormalization: Lowering = (node, at) => {
  at.require(17);
  const [ids, words, positions, gamma, beta] = [0, 2, 3, 5, 6].map((index) => at.input(index));
  const [segmentIds, segments, mask, positionIds] = [1, 4, 7, 8].map((index) => node.inputs[index]);
  const lookUp = (table: typeof ids, indices: typeof ids) => at.op('Gather', [table!, indices!], { axis: 0 });
  const places =
    positionIds ??
    at.once('positions of embeddings', () =>
      at.unsqueeze(at.op('Range', [at.int(0), at.length(ids!, 1), at.int(1)]), [0]),
    );
  let sum = lookUp(words, ids);
  if (segmentIds && segments) sum = at.op('Add', [sum, lookUp(segments, segmentIds)]);
  sum = at.op('Add', [sum, lookUp(positions, places)]);
  const epsilon = { type: 'float', value: node.float('epsilon', 1e-12) } as const;
  const normal = at.op('LayerNormalization', [sum, gamma!, beta!], { axis: -1, epsilon });
  const tokens = () => {
    const ones = mask ?? at.op('Sub', [ids!, ids!]);
    return at.op('ReduceSum', [at.cast(ones, 'int32'), at.ints([1])], { keepdims: 0 });
  };
  return [normal, node.outputs[1] ? tokens() : null, sum].slice(0, node.outputs.length);
};
