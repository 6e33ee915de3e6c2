import type { Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { TorchExport } from './export.ts';

/** A Llama of 107 M parameters: grouped-query attention, gated feed-forward, tied head. */
export const llamaConfig = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 32000,
  max_position_embeddings: 1024,
  hidden_size: 768,
  intermediate_size: 2304,
  num_hidden_layers: 12,
  num_attention_heads: 12,
  num_key_value_heads: 4,
  head_dim: 64,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  hidden_act: 'silu',
  tie_word_embeddings: true,
};

export function writeLlama(folder: string, config = llamaConfig): void {
  const { hidden_size: width, num_attention_heads: heads, num_key_value_heads: groups } = config;
  const { head_dim: size, intermediate_size: inner, rms_norm_eps: epsilon } = config;
  const make = new TorchExport();
  const [ids, attentionMask, positions] = ['input_ids', 'attention_mask', 'position_ids'].map((name) =>
    make.input(name),
  ) as [Value, Value, Value];
  const embedding = make.weight('model.embed_tokens.weight', config.vocab_size, width);
  let hidden = make.op('model/embed_tokens', 'Gather', [embedding, ids]);
  const mask = make.causalMask('model', attentionMask);
  const [cos, sin] = angles(make, positions, size, config.rope_theta);

  /** x / sqrt(mean(x^2) + epsilon) * weight */
  const norm = (scope: string, x: Value): Value => {
    const square = make.op(scope, 'Pow', [x, make.scalar(2)]);
    const mean = make.op(scope, 'ReduceMean', [square], { axes: [-1], keepdims: 1 });
    const root = make.op(scope, 'Sqrt', [make.op(scope, 'Add', [mean, make.scalar(epsilon)])]);
    const scale = make.op(scope, 'Div', [make.scalar(1), root]);
    const weight = make.constant(`${scope.replaceAll('/', '.')}.weight`, 1, width);
    return make.op(scope, 'Mul', [weight, make.op(scope, 'Mul', [x, scale])]);
  };

  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const scope = `model/layers.${layer}`;
    const attention = `${scope}/self_attn`;
    const linear = (name: string, x: Value, from: number, to: number): Value =>
      make.op(`${scope}/${name}`, 'MatMul', [x, make.transposedWeight(from, to)]);
    const split = (x: Value, count: number): Value =>
      make.op(attention, 'Transpose', [make.reshape(attention, x, [0, 0, count, size])], {
        perm: [0, 2, 1, 3],
      });
    /** Halves (a, b) become (a cos - b sin, b cos + a sin). */
    const rotate = (x: Value): Value => {
      const part = (start: number, end: number) =>
        make.op(attention, 'Slice', [
          x,
          make.ints([start]),
          make.ints([end]),
          make.ints([3]),
          make.ints([1]),
        ]);
      const turned = make.op(
        attention,
        'Concat',
        [make.op(attention, 'Neg', [part(size / 2, size)]), part(0, size / 2)],
        { axis: -1 },
      );
      return make.op(attention, 'Add', [
        make.op(attention, 'Mul', [x, cos]),
        make.op(attention, 'Mul', [turned, sin]),
      ]);
    };
    /** Each key/value head serves heads / groups query heads. */
    const repeat = (x: Value): Value => {
      const shape = make.op(attention, 'Shape', [x]);
      const lengths = [0, 2].map((axis) =>
        make.op(attention, 'Gather', [shape, make.ints([axis])], { axis: 0 }),
      ) as [Value, Value];
      const target = (middle: readonly number[]) =>
        make.op(attention, 'Concat', [lengths[0], make.ints(middle), lengths[1], make.ints([size])], {
          axis: 0,
        });
      const wide = make.op(attention, 'Expand', [
        make.op(attention, 'Unsqueeze', [x, make.ints([2])]),
        target([groups, heads / groups]),
      ]);
      return make.op(attention, 'Reshape', [wide, target([heads])]);
    };
    const normed = norm(`${scope}/input_layernorm`, hidden);
    const query = rotate(split(linear('self_attn/q_proj', normed, width, heads * size), heads));
    const key = rotate(split(linear('self_attn/k_proj', normed, width, groups * size), groups));
    const value = split(linear('self_attn/v_proj', normed, width, groups * size), groups);
    const keys = make.op(attention, 'Transpose', [repeat(key)], { perm: [0, 1, 3, 2] });
    const mixed = make.attention(attention, query, keys, repeat(value), mask, size);
    const joined = make.reshape(attention, mixed, [0, 0, heads * size]);
    hidden = make.op(scope, 'Add', [hidden, linear('self_attn/o_proj', joined, heads * size, width)]);
    const x = norm(`${scope}/post_attention_layernorm`, hidden);
    const gate = linear('mlp/gate_proj', x, width, inner);
    const silu = make.op(`${scope}/mlp/act_fn`, 'Mul', [
      gate,
      make.op(`${scope}/mlp/act_fn`, 'Sigmoid', [gate]),
    ]);
    const product = make.op(`${scope}/mlp`, 'Mul', [silu, linear('mlp/up_proj', x, width, inner)]);
    hidden = make.op(scope, 'Add', [hidden, linear('mlp/down_proj', product, inner, width)]);
  }
  const head = make.op('lm_head', 'Transpose', [embedding], { perm: [1, 0] });
  const logits = make.op('lm_head', 'MatMul', [norm('model/norm', hidden), head]);
  make.output(logits, 'logits', ['batch_size', 'sequence_length', config.vocab_size]);
  make.save(folder, config);
}

/** cos and sin [B, 1, S, size] of position times frequency, each frequency twice. */
function angles(make: TorchExport, positions: Value, size: number, theta: number): [Value, Value] {
  const scope = 'model/rotary_emb';
  const frequencies = Array.from({ length: size }, (_, i) => theta ** (-(2 * (i % (size / 2))) / size));
  const vector = make.graph.constant('Constant', Tensor.float32(frequencies));
  const column = make.op(scope, 'Unsqueeze', [
    make.op(scope, 'Cast', [positions], { to: 1 }),
    make.ints([1, 3]),
  ]);
  const angle = make.op(scope, 'Mul', [column, vector]);
  return [make.op(scope, 'Cos', [angle]), make.op(scope, 'Sin', [angle])];
}
