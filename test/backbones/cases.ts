import { type Reference, readBackbone, readTrace } from './reference.ts';

/** One line of the table in docs/backbones.md. */
export interface Case {
  readonly backbone: string;
  readonly layout: string;
  readonly reference: () => Reference;
  readonly file: string;
  /** The adapter is of the parts of fused projections. */
  readonly splitFused?: boolean;
}

const torchscript = 'torchscript (optimum)';
const dynamo = 'dynamo';

const model = (
  backbone: string,
  layout: string,
  folder: string,
  { file = 'onnx/model.onnx', variant = 'float' } = {},
): Case => ({ backbone, layout, file, reference: () => readBackbone(folder, variant) });

const split = (backbone: string, layout: string, folder: string, file: string): Case => ({
  ...model(backbone, layout, folder, { file }),
  splitFused: true,
});

const trace = (
  backbone: string,
  layout: string,
  name: string,
  at?: string,
  file = 'onnx/model.onnx',
): Case => ({
  backbone,
  layout,
  file,
  reference: () => readTrace(name, at),
});

const smollm = (layout: string, file: string, variant = 'float') =>
  model('SmolLM', layout, 'smollm', { file: `onnx/${file}.onnx`, variant });

export const cases: readonly Case[] = [
  trace('GPT-2', torchscript, 'gpt2'),
  trace('GPT-2', dynamo, 'gpt2-dynamo'),
  model('GPT-2', 'ONNX Runtime optimiser: FastGelu, SkipLayerNormalization', 'gpt2', {
    file: 'onnx/model_optimized.onnx',
  }),
  trace('Llama', torchscript, 'llama'),
  trace('Llama', dynamo, 'llama-dynamo'),
  trace('Llama', 'key/value cache inputs', 'llama', 'llama-kv'),
  model('Llama 3 (scaled rotary)', torchscript, 'llama3'),
  smollm(torchscript, 'model'),
  smollm('dynamo, opset 23: Attention, RMSNormalization, RotaryEmbedding', 'model_opset23'),
  smollm('float16', 'model_fp16', 'fp16'),
  smollm('transformers.js v2: `If` on use_cache_branch', 'decoder_model_merged'),
  smollm('transformers.js v2: `If` on use_cache_branch, int8', 'decoder_model_merged_quantized', 'int8'),
  smollm('genai builder: GroupQueryAttention, SkipSimplifiedLayerNormalization', 'model_genai'),
  smollm('genai builder, 4 bits: MatMulNBits, GatherBlockQuantized', 'model_genai_q4', 'q4-genai'),
  smollm('4 bits: MatMulNBits', 'model_q4', 'q4'),
  smollm('4 bits: blocked DequantizeLinear, opset 21', 'model_q4_qdq', 'q4'),
  smollm('4 bits: MatMulBnb4 (NormalFloat)', 'model_bnb4', 'bnb4'),
  smollm('4 bits: MatMulNBits, the rest float16', 'model_q4f16', 'q4f16'),
  smollm('int8 weights: DequantizeLinear', 'model_int8', 'int8-weights'),
  smollm('int8: DynamicQuantizeLinear, MatMulInteger', 'model_quantized', 'int8'),
  model('Mistral', dynamo, 'mistral'),
  trace('Qwen2', dynamo, 'qwen2'),
  model('Qwen3', dynamo, 'qwen3'),
  model('Qwen3', 'dynamo, opset 23: Attention, RMSNormalization, RotaryEmbedding', 'qwen3', {
    file: 'onnx/model_opset23.onnx',
  }),
  trace('Gemma', dynamo, 'gemma'),
  model('Gemma 2', dynamo, 'gemma2'),
  model('Gemma 3', dynamo, 'gemma3'),
  trace('Phi-3', 'torchscript (optimum), external data', 'phi3'),
  trace('GPT-NeoX (Pythia)', torchscript, 'gpt-neox'),
  trace('OPT', dynamo, 'opt'),
  model('BLOOM (alibi)', torchscript, 'bloom'),
  model('Falcon', torchscript, 'falcon'),
  trace('BERT', torchscript, 'bert'),
  trace('RoBERTa', dynamo, 'roberta'),
  trace('RoBERTa, head trained', dynamo, 'roberta-head'),
  trace('DistilBERT', torchscript, 'distilbert'),
  trace('DistilBERT, head trained', torchscript, 'distilbert-head'),
  model('ALBERT (shared layers)', torchscript, 'albert'),
  model('DeBERTa-v2', torchscript, 'deberta-v2'),
  model('MPNet encoder, new classifier', torchscript, 'mpnet'),
  model('MiniLM encoder, new classifier', torchscript, 'minilm'),
  model('MiniLM encoder, new classifier', 'ONNX Runtime optimiser: MultiHeadAttention, BiasGelu', 'minilm', {
    file: 'onnx/model_optimized.onnx',
  }),
  split(
    'MiniLM encoder, new classifier',
    'ONNX Runtime optimiser: Attention (`splitFused`), EmbedLayerNormalization',
    'minilm',
    'onnx/model_attention.onnx',
  ),
  model('MiniLM encoder, new classifier', 'int8: DynamicQuantizeLinear, MatMulInteger', 'minilm', {
    file: 'onnx/model_quantized.onnx',
    variant: 'int8',
  }),
  model('T5', `${torchscript}, two files`, 't5', { file: 'onnx/decoder_model.onnx' }),
  model('T5', 'transformers.js: `If` on use_cache_branch, two files', 't5', {
    file: 'onnx/decoder_model_merged.onnx',
  }),
  model('BART', `${torchscript}, two files`, 'bart', { file: 'onnx/decoder_model.onnx' }),
  model('BART', 'transformers.js: `If` on use_cache_branch, two files', 'bart', {
    file: 'onnx/decoder_model_merged.onnx',
  }),
  model('BERT, token classification, head trained', torchscript, 'bert-tokens'),
  model('BERT, answer spans, head trained', torchscript, 'bert-span'),
  model('Whisper', `${torchscript}, two files`, 'whisper', { file: 'onnx/decoder_model.onnx' }),
  model('ViT, image classification (graph only)', torchscript, 'vit'),
];
