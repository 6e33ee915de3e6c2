import type { Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { TorchExport } from './export.ts';

/** BERT base, 109 M parameters, with a classifier of two classes. */
export const bertConfig = {
  architectures: ['BertForSequenceClassification'],
  model_type: 'bert',
  vocab_size: 30522,
  max_position_embeddings: 512,
  type_vocab_size: 2,
  hidden_size: 768,
  intermediate_size: 3072,
  num_hidden_layers: 12,
  num_attention_heads: 12,
  hidden_act: 'gelu',
  layer_norm_eps: 1e-12,
  id2label: { 0: 'no', 1: 'yes' },
};

export function writeBert(folder: string, config = bertConfig): void {
  const { hidden_size: width, num_attention_heads: heads, intermediate_size: inner } = config;
  const { layer_norm_eps: epsilon } = config;
  const size = width / heads;
  const classes = Object.keys(config.id2label).length;
  const make = new TorchExport();
  const [ids, attentionMask, types] = ['input_ids', 'attention_mask', 'token_type_ids'].map((name) =>
    make.input(name),
  ) as [Value, Value, Value];

  const embeddings = 'bert/embeddings';
  const table = (name: string, rows: number) => make.weight(`bert.embeddings.${name}.weight`, rows, width);
  const shape = make.op(embeddings, 'Shape', [ids]);
  const length = make.op(embeddings, 'Gather', [shape, make.ints([1])], { axis: 0 });
  const order = make.graph.constant(
    'bert.embeddings.position_ids',
    Tensor.int64(
      Array.from({ length: config.max_position_embeddings }, (_, i) => i),
      [1, config.max_position_embeddings],
    ),
  );
  const places = make.op(embeddings, 'Slice', [order, make.ints([0]), length, make.ints([1])]);
  const words = make.op(`${embeddings}/word_embeddings`, 'Gather', [
    table('word_embeddings', config.vocab_size),
    ids,
  ]);
  const kinds = make.op(`${embeddings}/token_type_embeddings`, 'Gather', [
    table('token_type_embeddings', config.type_vocab_size),
    types,
  ]);
  const positions = make.op(`${embeddings}/position_embeddings`, 'Gather', [
    table('position_embeddings', config.max_position_embeddings),
    places,
  ]);
  const sum = make.op(embeddings, 'Add', [make.op(embeddings, 'Add', [words, kinds]), positions]);
  let hidden = make.layerNorm(`${embeddings}/LayerNorm`, 'bert.embeddings.LayerNorm', sum, width, epsilon);
  const keep = make.op('bert', 'Cast', [make.op('bert', 'Unsqueeze', [attentionMask, make.ints([1, 2])])], {
    to: 1,
  });
  const mask = make.op('bert', 'Mul', [
    make.op('bert', 'Sub', [make.scalar(1), keep]),
    make.scalar(-3.4028234663852886e38),
  ]);

  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const scope = `bert/encoder/layer.${layer}`;
    const path = `bert.encoder.layer.${layer}`;
    const self = `${scope}/attention/self`;
    const linear = (name: string, x: Value, from: number, to: number): Value =>
      make.op(`${scope}/${name}`, 'Add', [
        make.constant(`${path}.${name.replaceAll('/', '.')}.bias`, 0, to),
        make.op(`${scope}/${name}`, 'MatMul', [x, make.transposedWeight(from, to)]),
      ]);
    const head = (name: string, perm: readonly number[]): Value => {
      const product = linear(`attention/self/${name}`, hidden, width, width);
      return make.op(self, 'Transpose', [make.reshape(self, product, [0, 0, heads, size])], { perm });
    };
    const mixed = make.attention(
      self,
      head('query', [0, 2, 1, 3]),
      head('key', [0, 2, 3, 1]),
      head('value', [0, 2, 1, 3]),
      mask,
      size,
    );
    const residual = (name: string, x: Value, from: number, beside: Value): Value => {
      const added = make.op(`${scope}/${name}`, 'Add', [linear(`${name}/dense`, x, from, width), beside]);
      const norm = `${path}.${name.replace('/', '.')}.LayerNorm`;
      return make.layerNorm(`${scope}/${name}/LayerNorm`, norm, added, width, epsilon);
    };
    hidden = residual('attention/output', make.reshape(self, mixed, [0, 0, width]), width, hidden);
    const activation = `${scope}/intermediate/intermediate_act_fn`;
    const x = linear('intermediate/dense', hidden, width, inner);
    const erf = make.op(activation, 'Erf', [make.op(activation, 'Div', [x, make.scalar(Math.SQRT2)])]);
    const wide = make.op(activation, 'Mul', [x, make.op(activation, 'Add', [erf, make.scalar(1)])]);
    hidden = residual('output', make.op(activation, 'Mul', [wide, make.scalar(0.5)]), inner, hidden);
  }
  const gemm = (scope: string, name: string, x: Value, rows: number): Value =>
    make.op(
      scope,
      'Gemm',
      [x, make.weight(`${name}.weight`, rows, width), make.constant(`${name}.bias`, 0, rows)],
      { transB: 1 },
    );
  const first = make.op(
    'bert/pooler',
    'Gather',
    [hidden, make.graph.constant('Constant', Tensor.int64([0], []))],
    { axis: 1 },
  );
  const pooled = make.op('bert/pooler/activation', 'Tanh', [
    gemm('bert/pooler/dense', 'bert.pooler.dense', first, width),
  ]);
  make.output(gemm('classifier', 'classifier', pooled, classes), 'logits', ['batch_size', classes]);
  make.save(folder, config);
}
