import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { ModelConfig } from '../../src/adapters/module.ts';
import { readSafetensors } from '../../src/adapters/safetensors.ts';
import { selectSaved, selectTargets } from '../../src/adapters/selection.ts';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { AloraError } from '../../src/errors.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { Graph, type Model, Node } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';

const models = readdirSync('fixtures/models').filter((name) =>
  existsSync(`fixtures/models/${name}/onnx/model.onnx`),
);
const configOf = (name: string): ModelConfig =>
  JSON.parse(readFileSync(`fixtures/models/${name}/config.json`, 'utf8'));
const modulesOf = (name: string) =>
  findLinearModules(readModel(`fixtures/models/${name}/onnx/model.onnx`), configOf(name));

describe('findLinearModules', () => {
  // The state dictionary of the original tells every module's name, and its shape and values as well.
  it.each(models.filter((name) => existsSync(`fixtures/models/${name}/model.safetensors`)))(
    '%s: names, shapes and weights of the original model',
    (name) => {
      const { tensors } = readSafetensors(`fixtures/models/${name}/model.safetensors`);
      const modules = modulesOf(name);
      for (const module of modules) {
        // transformers 5 calls GPT-NeoX's output embedding lm_head and stores it under its old name.
        const stored = name === 'gpt-neox' && module.name === 'lm_head' ? 'embed_out' : module.name;
        const original = tensors.get(`${stored}.weight`);
        // A tied output embedding is stored once, under the name of the input embedding.
        if (!original && module.role === 'lm_head' && configOf(name).tie_word_embeddings) continue;
        expect(original, module.name).toBeDefined();
        const dims = module.fanInFanOut ? [module.in, module.out] : [module.out, module.in];
        expect(original!.dims, module.name).toEqual(dims);
        const { tensor, layout } = module.weight;
        const same = (layout === 'in-out') === module.fanInFanOut;
        expect(same ? tensor.toFloat32() : transpose(tensor), module.name).toEqual(original!.toFloat32());
      }
      const linear = [...tensors].filter(
        ([key, { dims }]) => dims.length === 2 && !/embed|wte|wpe/.test(key) && key.endsWith('.weight'),
      );
      const named = new Set([...modules.map((module) => `${module.name}.weight`), 'embed_out.weight']);
      expect(linear.map(([key]) => key).filter((key) => !named.has(key))).toEqual([]);
    },
  );

  it('finds the same modules in the fp32, fp16 and KV-cache files of a model', () => {
    const names = modulesOf('llama').map(({ name }) => name);
    const fp16 = findLinearModules(
      readModel('fixtures/models/llama/onnx/model_fp16.onnx'),
      configOf('llama'),
    );
    expect(fp16.map(({ name }) => name)).toEqual(names);
    expect(fp16[0]!.weight.tensor.dtype).toBe('float16');
    expect(modulesOf('llama-kv').map(({ name }) => name)).toEqual(names);
  });

  it('knows blocks, kinds and roles', () => {
    const roberta = modulesOf('roberta');
    expect(roberta.map(({ index }) => index)).toEqual(roberta.map((_, i) => i));
    expect(roberta[6]).toMatchObject({
      name: 'roberta.encoder.layer.1.attention.self.query',
      block: 1,
      kind: 'attention.self.query',
      role: 'linear',
    });
    expect(roberta.filter(({ role }) => role === 'head').map(({ name }) => name)).toEqual([
      'classifier.dense',
      'classifier.out_proj',
    ]);
    expect(modulesOf('gpt2').find(({ role }) => role === 'lm_head')).toMatchObject({
      name: 'lm_head',
      block: null,
    });
  });
});

describe('names that other exporters leave', () => {
  const llama = { model_type: 'llama', architectures: ['LlamaForCausalLM'] };
  const bert = (architecture: string) => ({ model_type: 'bert', architectures: [architecture] });
  it.each([
    ['optimum', '/model/layers.0/self_attn/q_proj/MatMul', llama, 'model.layers.0.self_attn.q_proj'],
    ['a wrapper', '/model/model/layers.0/self_attn/q_proj/MatMul', llama, 'model.layers.0.self_attn.q_proj'],
    ['a wrapper, no config', '/model/model/layers.0/mlp/up_proj/MatMul', {}, 'model.layers.0.mlp.up_proj'],
    ['genai', '/model/layers.0/attn/q_proj/MatMul', llama, 'model.layers.0.self_attn.q_proj'],
    ['genai, 4 bit', '/model/layers.0/attn/qkv_proj/MatMul_Q4', llama, 'model.layers.0.self_attn.qkv_proj'],
    ['quantised', '/model/layers.0/mlp/up_proj/MatMul_quant', llama, 'model.layers.0.mlp.up_proj'],
    ['ORT fusion', '/model/layers.0/mlp/up_proj/Gemm/MatMulAddFusion', llama, 'model.layers.0.mlp.up_proj'],
    ['no prefix in the file', '/layers.0/mlp/up_proj/MatMul', llama, 'model.layers.0.mlp.up_proj'],
    [
      'OPT',
      '/model/decoder/layers.3/fc1/Gemm',
      { model_type: 'opt', architectures: ['OPTForCausalLM'] },
      'model.decoder.layers.3.fc1',
    ],
    [
      'GPT-J keeps its attn',
      '/transformer/h.0/attn/q_proj/MatMul',
      { model_type: 'gptj', architectures: ['GPTJForCausalLM'] },
      'transformer.h.0.attn.q_proj',
    ],
    [
      'BERT with a head',
      '/bert/encoder/layer.0/output/dense/MatMul',
      bert('BertForSequenceClassification'),
      'bert.encoder.layer.0.output.dense',
    ],
  ])('%s: %s', (_, node, config, expected) => {
    expect(findLinearModules(oneProduct(node, 'logits'), config)[0]!.name).toBe(expected);
  });

  it.each([
    ['/encoder/layer.0/output/dense/MatMul', bert('BertModel')],
    ['/encoder/layer.0/output/dense/MatMul', bert('BertForMaskedLM')],
    ['/bert/encoder/layer.0/output/dense/MatMul', bert('BertModel')],
    ['/0/auto_model/encoder/layer.0/output/dense/MatMul', bert('BertModel')],
  ])('a backbone without a head has no prefix: %s', (node, config) => {
    const [module] = findLinearModules(oneProduct(node, 'last_hidden_state'), config);
    expect(module!.name).toBe('encoder.layer.0.output.dense');
  });

  it('falls back to the names of the weight and of the bias', () => {
    const byWeight = oneProduct('MatMul_7', 'logits', 'model.layers.0.mlp.up_proj.MatMul.weight_Q4');
    expect(findLinearModules(byWeight, llama)[0]!.name).toBe('model.layers.0.mlp.up_proj');
    const byBias = oneProduct('MatMul_7', 'logits', 'onnx::MatMul_9');
    const { graph } = byBias;
    const bias = graph.constant('bert.encoder.layer.0.output.dense.bias', Tensor.float32([1, 2, 3]));
    const product = graph.nodes[0]!.output;
    graph.add(new Node('Add', '', '', [product, bias], [graph.value('sum')]));
    const [module] = findLinearModules(byBias, bert('BertForSequenceClassification'));
    expect(module).toMatchObject({ name: 'bert.encoder.layer.0.output.dense', bias });
  });

  it('takes a dynamically quantised product as one layer from x to the scaled result', () => {
    const model = oneProduct('/model/layers.0/mlp/up_proj/MatMul', 'logits');
    const { graph } = model;
    const x = graph.inputs[0]!;
    const weight = graph.constant('w_quantized', new Tensor('int8', [2, 3], new Uint8Array(6)));
    const xq = graph.value('xq');
    const scale = graph.value('scale');
    graph.nodes = [];
    graph.add(new Node('DynamicQuantizeLinear', '', 'dq', [x], [xq, scale, graph.value('zero')]));
    const name = '/model/layers.0/mlp/up_proj/MatMul_quant';
    const product = graph.add(new Node('MatMulInteger', '', name, [xq, weight], [graph.value('i32')]));
    const cast = graph.add(new Node('Cast', '', 'cast', [product.output], [graph.value('f32')]));
    const scaled = graph.add(new Node('Mul', '', 'scaled', [cast.output, scale], [graph.value('y')]));
    const [module] = findLinearModules(model, llama);
    expect(module).toMatchObject({ name: 'model.layers.0.mlp.up_proj', in: 2, out: 3, input: x });
    expect(module!.output).toBe(scaled.output);
    expect(module!.weight).toMatchObject({ storage: 'int8', layout: 'in-out' });
  });

  it('keeps a layer that is used twice as one module with two uses', () => {
    const model = oneProduct('/albert/encoder/group.0/ffn/MatMul', 'logits');
    const { graph } = model;
    const [first] = graph.nodes;
    const again = new Node(
      'MatMul',
      '',
      '/albert/encoder/group.0/ffn/MatMul_1',
      [...first!.inputs],
      [graph.value('y2')],
    );
    graph.add(again);
    const modules = findLinearModules(model, {});
    expect(modules).toHaveLength(1);
    expect(modules[0]!.uses.map(({ node }) => node)).toEqual([first, again]);
  });
});

describe('selectTargets', () => {
  const llama = modulesOf('llama');
  const bert = modulesOf('bert');
  const names = (modules: readonly { name: string }[]) => modules.map(({ name }) => name);
  const refusal = (run: () => unknown): AloraError => {
    try {
      run();
    } catch (error) {
      if (error instanceof AloraError) return error;
      throw error;
    }
    throw new Error('nothing was refused');
  };

  it('all-linear leaves out the output embedding, heads and modulesToSave', () => {
    expect(names(selectTargets(llama, 'all-linear'))).not.toContain('lm_head');
    expect(names(selectTargets(bert, 'all-linear'))).toContain('bert.pooler.dense');
    expect(names(selectTargets(bert, 'all-linear'))).not.toContain('classifier');
    const saved = selectTargets(bert, ['all-linear'], { modulesToSave: ['pooler'] });
    expect(names(saved)).not.toContain('bert.pooler.dense');
  });

  it('takes name endings at dot boundaries and regular expressions over the whole name', () => {
    expect(selectTargets(llama, ['q_proj', 'v_proj'])).toHaveLength(4);
    expect(names(selectTargets(llama, ['layers.1.self_attn.k_proj']))).toEqual([
      'model.layers.1.self_attn.k_proj',
    ]);
    expect(selectTargets(llama, ['.*\\.[qk]_proj'])).toHaveLength(4);
    expect(names(selectTargets(llama, ['lm_head']))).toEqual(['lm_head']);
    expect(selectTargets(llama, ['v_proj']).map(({ index }) => index)).toEqual([0, 1]);
  });

  it.each(['proj', 'layers.(0|1)', 'q_prj', 'lm_head.weight'])(
    'refuses %s, which matches nothing',
    (item) => {
      const error = refusal(() => selectTargets(llama, ['v_proj', item]));
      expect(error).toMatchObject({ kind: 'config', code: 'CONFIG_TARGET_UNMATCHED', exitCode: 3 });
      expect(error.details.got).toBe(item);
      expect(error.details.allowed).toContain('q_proj');
    },
  );

  it('says what was meant, what a head is, and what is no expression', () => {
    expect(refusal(() => selectTargets(llama, ['q_prj'])).details.didYouMean).toBe('q_proj');
    expect(refusal(() => selectTargets(bert, ['classifier'])).details.fix).toContain('modulesToSave');
    expect(refusal(() => selectTargets(llama, ['layers\\.0\\..*q_proj'])).details.fix).toContain(
      'whole name',
    );
    expect(refusal(() => selectTargets(llama, ['(q_proj'])).code).toBe('CONFIG_TARGET_PATTERN');
  });

  it('selectSaved names heads, or everything beneath a name', () => {
    expect(names(selectSaved(bert, ['classifier']))).toEqual(['classifier']);
    expect(names(selectSaved(modulesOf('roberta'), ['classifier']))).toHaveLength(2);
    expect(refusal(() => selectSaved(bert, ['clasifier'])).details.didYouMean).toBe('classifier');
  });
});

/** A model of one product x [.., 2] W [2, 3] whose node and weight have the given names. */
function oneProduct(node: string, output: string, weight = 'onnx::MatMul_1'): Model {
  const graph = new Graph();
  const x = graph.input('x', 'float32', ['batch', 2]);
  const w = graph.constant(weight, Tensor.float32([1, 2, 3, 4, 5, 6], [2, 3]));
  const y = graph.value(output);
  graph.add(new Node('MatMul', '', node, [x, w], [y]));
  graph.outputs = [y];
  return { irVersion: 8, opsets: new Map([['', 17]]), graph, producer: '', metadata: new Map() };
}

function transpose(tensor: Tensor): Float32Array {
  const [rows, columns] = tensor.dims as [number, number];
  const values = tensor.toFloat32();
  return Float32Array.from(
    { length: values.length },
    (_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!,
  );
}
