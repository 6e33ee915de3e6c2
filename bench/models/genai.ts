import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { attribute, Builder, floatAttribute } from '../../src/onnx/builder.ts';
import { writeModel } from '../../src/onnx/encode.ts';
import { type AttributeInit, Graph, Node, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { llamaConfig } from './llama.ts';

/** How the linear layers are stored: float32, block-wise 4 bits (MatMulNBits), or 8 bits with activations rounded. */
export type Storage = 'float32' | 'q4' | 'int8';

const block = 32;

/**
 * The Llama of llama.ts as ONNX Runtime's generative exporter lays it out: GroupQueryAttention with its rotation inside
 * and a cache, (Skip)SimplifiedLayerNormalization, the storage of its products as given. Weights are random.
 */
export function writeGenai(folder: string, storage: Storage, config = llamaConfig): void {
  const { hidden_size: width, num_attention_heads: heads, num_key_value_heads: groups } = config;
  const {
    head_dim: size,
    intermediate_size: inner,
    num_hidden_layers: layers,
    vocab_size: vocabulary,
  } = config;
  const graph = new Graph('main_graph');
  const make = new Builder(graph, '');
  let state = 0x9e3779b9;
  const random = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state;
  };
  const floats = (count: number, deviation: number) =>
    Float32Array.from({ length: count }, () => (random() / 2 ** 32) * deviation * Math.sqrt(12));
  const bytes = (count: number) => Uint8Array.from({ length: count }, random);
  const constant = (name: string, tensor: Tensor) => graph.constant(name, tensor);

  const node = (
    name: string,
    op: string,
    inputs: (Value | null)[],
    outputs: readonly string[],
    { domain = '', ...attributes }: Record<string, AttributeInit> & { domain?: string } = {},
  ): Value[] => {
    const values = outputs.map((output) => graph.value(output, 'float32'));
    const added = graph.add(new Node(op, domain, name, inputs, values));
    for (const [key, value] of Object.entries(attributes)) added.setAttribute(key, attribute(value));
    return values;
  };
  const one = (
    name: string,
    op: string,
    inputs: (Value | null)[],
    attributes: Record<string, AttributeInit> = {},
  ) => node(name, op, inputs, [`${name}/output_0`], attributes)[0]!;
  const domain = 'com.microsoft';

  /** x [.., from] times a weight. */
  const linear = (path: string, x: Value, from: number, to: number): Value => {
    const name = `/model/${path}/MatMul`;
    const weight = `model.${path.replaceAll('/', '.')}.weight`;
    if (storage === 'float32')
      return one(name, 'MatMul', [x, constant(weight, Tensor.float32(floats(from * to, 0.02), [from, to]))]);
    if (storage === 'q4') {
      const blocks = from / block;
      const packed = new Tensor('uint8', [to, blocks, block / 2], bytes((from * to) / 2));
      // Integers of 4 bits deviate by 4.6.
      const scales = Tensor.float32(new Float32Array(to * blocks).fill(0.02 / 4.6), [to, blocks]);
      const inputs = [x, constant(`${weight}_Q4`, packed), constant(`${weight}_scales`, scales)];
      const attributes = { domain, K: from, N: to, bits: 4, block_size: block, accuracy_level: 0 };
      return one(`${name}_Q4`, 'MatMulNBits', inputs, attributes);
    }
    const [integers, scale, zero] = quantised(x);
    const stored = constant(`${weight}_quantized`, new Tensor('int8', [from, to], bytes(from * to)));
    const product = one(`${name}_quant`, 'MatMulInteger', [integers!, stored, zero!]);
    const own = constant(`${weight}_scale`, Tensor.float32([0.02 / 74], []));
    const scales = one(`${name}_quant_scales_mul`, 'Mul', [scale!, own]);
    const cast = one(`${product.name}_cast`, 'Cast', [product], { to: 1 });
    return one(`${name}_quant_output_scale_mul`, 'Mul', [cast, scales]);
  };
  /** What several products read is rounded once. */
  const rounded = new Map<Value, Value[]>();
  const quantised = (x: Value): Value[] => {
    const parts = ['quantized', 'scale', 'zero_point'].map((part) => `${x.name}_${part}`);
    const values = rounded.get(x) ?? node(`${x.name}_QuantizeLinear`, 'DynamicQuantizeLinear', [x], parts);
    rounded.set(x, values);
    return values;
  };

  const ids = graph.input('input_ids', 'int64', ['batch_size', 'sequence_length']);
  const mask = graph.input('attention_mask', 'int64', ['batch_size', 'total_sequence_length']);
  const summed = make.op('ReduceSum', [mask, make.ints([1])], { attributes: { keepdims: 0 } });
  const seen = make.op('Cast', [make.op('Sub', [summed, make.int(1)])], { attributes: { to: 6 } });
  const length = make.op('Gather', [make.op('Shape', [mask]), make.int(1)], { attributes: { axis: 0 } });
  const total = make.op('Cast', [length], { attributes: { to: 6 } });
  const [cos, sin] = [Math.cos, Math.sin].map((turn, i) => {
    const half = size / 2;
    const angle = (k: number) => Math.floor(k / half) * config.rope_theta ** (-(k % half) / half);
    const table = Float32Array.from({ length: config.max_position_embeddings * half }, (_, k) =>
      turn(angle(k)),
    );
    return constant(
      ['cos_cache', 'sin_cache'][i]!,
      Tensor.float32(table, [config.max_position_embeddings, half]),
    );
  }) as [Value, Value];
  const ones = (name: string) => constant(`${name}.weight`, Tensor.float32(new Float32Array(width).fill(1)));
  const epsilon = floatAttribute(config.rms_norm_eps);

  const table = constant(
    'model.embed_tokens.weight',
    Tensor.float32(floats(vocabulary * width, 0.02), [vocabulary, width]),
  );
  let stream = one('/model/embed_tokens/Gather', 'Gather', [table, ids]);
  let normed = one(
    '/model/layers.0/input_layernorm/LayerNorm',
    'SimplifiedLayerNormalization',
    [stream, ones('model.layers.0.input_layernorm')],
    { axis: -1, epsilon },
  );
  /** The stream with what a block adds to it, and its norm. */
  const skip = (path: string, added: Value): void => {
    const name = `/model/${path}/SkipLayerNorm`;
    const norm = graph.value(`${name}/output_0`, 'float32');
    const sum = graph.value(`${name}/output_3`, 'float32');
    const inputs = [stream, added, ones(`model.${path.replaceAll('/', '.')}`)];
    const made = graph.add(
      new Node('SkipSimplifiedLayerNormalization', domain, name, inputs, [norm, null, null, sum]),
    );
    made.setAttribute('epsilon', attribute(epsilon));
    [normed, stream] = [norm, sum];
  };
  for (let layer = 0; layer < layers; layer++) {
    const path = `layers.${layer}`;
    const cache = ['key', 'value'].map((kind) =>
      graph.input(`past_key_values.${layer}.${kind}`, 'float32', [
        'batch_size',
        groups,
        'past_sequence_length',
        size,
      ]),
    );
    const [query, key, value] = (['q', 'k', 'v'] as const).map((kind) =>
      linear(`${path}/attn/${kind}_proj`, normed, width, (kind === 'q' ? heads : groups) * size),
    ) as [Value, Value, Value];
    const inputs = [query, key, value, ...cache, seen, total, cos, sin];
    const name = `/model/${path}/attn/GroupQueryAttention`;
    const outputs = [`${name}/output_0`, `present.${layer}.key`, `present.${layer}.value`];
    const attributes = { domain, num_heads: heads, kv_num_heads: groups, do_rotary: 1 };
    const [mixed, ...present] = node(name, 'GroupQueryAttention', inputs, outputs, attributes);
    for (const kept of present) kept.shape = ['batch_size', groups, 'total_sequence_length', size];
    graph.outputs.push(...present);
    skip(`${path}/post_attention_layernorm`, linear(`${path}/attn/o_proj`, mixed!, heads * size, width));
    const gate = linear(`${path}/mlp/gate_proj`, normed, width, inner);
    const silu = one(`/model/${path}/mlp/act_fn/Mul`, 'Mul', [
      gate,
      one(`/model/${path}/mlp/act_fn/Sigmoid`, 'Sigmoid', [gate]),
    ]);
    const product = one(`/model/${path}/mlp/Mul`, 'Mul', [
      silu,
      linear(`${path}/mlp/up_proj`, normed, width, inner),
    ]);
    const down = linear(`${path}/mlp/down_proj`, product, inner, width);
    skip(layer + 1 < layers ? `layers.${layer + 1}/input_layernorm` : 'norm', down);
  }
  const logits = linear('lm_head', normed, width, vocabulary);
  logits.name = 'logits';
  logits.shape = ['batch_size', 'sequence_length', vocabulary];
  graph.outputs.unshift(logits);
  const opsets = new Map([
    ['', 17],
    [domain, 1],
  ]);
  mkdirSync(join(folder, 'onnx'), { recursive: true });
  const model = {
    irVersion: 8,
    opsets,
    graph,
    producer: 'onnx-alora bench',
    metadata: new Map<string, string>(),
  };
  writeModel(model, join(folder, 'onnx', 'model.onnx'));
  writeFileSync(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
}
