import type { Value } from '../../src/onnx/graph.ts';
import { TorchExport } from './export.ts';

/** GPT-2 small, 124 M parameters: transformers' GPT2LMHeadModel as torch.onnx.export and optimum write it. */
export const gpt2Config = {
  architectures: ['GPT2LMHeadModel'],
  model_type: 'gpt2',
  vocab_size: 50257,
  n_positions: 1024,
  n_embd: 768,
  n_layer: 12,
  n_head: 12,
  activation_function: 'gelu_new',
  layer_norm_epsilon: 1e-5,
  tie_word_embeddings: true,
};

export function writeGpt2(folder: string, config = gpt2Config): void {
  const { n_embd: width, n_head: heads, layer_norm_epsilon: epsilon } = config;
  const size = width / heads;
  const make = new TorchExport();
  const [ids, attentionMask, positions] = ['input_ids', 'attention_mask', 'position_ids'].map((name) =>
    make.input(name),
  ) as [Value, Value, Value];
  const embedding = make.weight('transformer.wte.weight', config.vocab_size, width);
  const places = make.weight('transformer.wpe.weight', config.n_positions, width);
  let hidden = make.op('transformer', 'Add', [
    make.op('transformer/wte', 'Gather', [embedding, ids]),
    make.op('transformer/wpe', 'Gather', [places, positions]),
  ]);
  const mask = make.causalMask('transformer', attentionMask);

  for (let layer = 0; layer < config.n_layer; layer++) {
    const scope = `transformer/h.${layer}`;
    const path = `transformer.h.${layer}`;
    /** Conv1D: Gemm with the weight as [in, out], between two reshapes. */
    const conv = (name: string, x: Value, from: number, to: number): Value => {
      const rows = make.reshape(`${scope}/${name}`, x, [-1, from]);
      const dotted = `${path}.${name.replace('/', '.')}`;
      const product = make.op(`${scope}/${name}`, 'Gemm', [
        rows,
        make.weight(`${dotted}.weight`, from, to),
        make.constant(`${dotted}.bias`, 0, to),
      ]);
      const shape = make.op(`${scope}/${name}`, 'Shape', [x]);
      const lead = make.op(`${scope}/${name}`, 'Slice', [
        shape,
        make.ints([0]),
        make.ints([2]),
        make.ints([0]),
      ]);
      const target = make.op(`${scope}/${name}`, 'Concat', [lead, make.ints([to])], { axis: 0 });
      return make.op(`${scope}/${name}`, 'Reshape', [product, target]);
    };
    const attention = `${scope}/attn`;
    const normed = make.layerNorm(`${scope}/ln_1`, `${path}.ln_1`, hidden, width, epsilon);
    const joint = conv('attn/c_attn', normed, width, 3 * width);
    const sizes = make.ints([width, width, width]);
    const [query, key, value] = make
      .node(attention, 'Split', [joint, sizes], 3, { axis: 2 })
      .map((part) => make.reshape(attention, part, [0, 0, heads, size])) as [Value, Value, Value];
    const mixed = make.attention(
      attention,
      make.op(attention, 'Transpose', [query], { perm: [0, 2, 1, 3] }),
      make.op(attention, 'Transpose', [key], { perm: [0, 2, 3, 1] }),
      make.op(attention, 'Transpose', [value], { perm: [0, 2, 1, 3] }),
      mask,
      size,
    );
    const attended = conv('attn/c_proj', make.reshape(attention, mixed, [0, 0, width]), width, width);
    hidden = make.op(scope, 'Add', [attended, hidden]);
    const inner = conv(
      'mlp/c_fc',
      make.layerNorm(`${scope}/ln_2`, `${path}.ln_2`, hidden, width, epsilon),
      width,
      4 * width,
    );
    const output = conv('mlp/c_proj', geluTanh(make, `${scope}/mlp/act`, inner), 4 * width, width);
    hidden = make.op(scope, 'Add', [hidden, output]);
  }
  const last = make.layerNorm('transformer/ln_f', 'transformer.ln_f', hidden, width, epsilon);
  // The head reads the embedding, as optimum leaves tied weights.
  const head = make.op('lm_head', 'Transpose', [embedding], { perm: [1, 0] });
  const logits = make.op('lm_head', 'MatMul', [last, head]);
  make.output(logits, 'logits', ['batch_size', 'sequence_length', config.vocab_size]);
  make.save(folder, config);
}

/** 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
function geluTanh(make: TorchExport, scope: string, x: Value): Value {
  const half = make.op(scope, 'Mul', [x, make.scalar(0.5)]);
  const cube = make.op(scope, 'Pow', [x, make.scalar(3)]);
  const inner = make.op(scope, 'Add', [x, make.op(scope, 'Mul', [cube, make.scalar(0.044715)])]);
  const tanh = make.op(scope, 'Tanh', [make.op(scope, 'Mul', [inner, make.scalar(Math.sqrt(2 / Math.PI))])]);
  return make.op(scope, 'Mul', [half, make.op(scope, 'Add', [tanh, make.scalar(1)])]);
}
