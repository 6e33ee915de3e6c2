import type { Node, Value } from '../onnx/graph.ts';
import type { ModelConfig } from './module.ts';

/**
 * Names of modules as PEFT knows them, recovered from what exporters leave in a file:
 * - torchscript: node `/model/layers.0/self_attn/q_proj/MatMul`; weights lose their names, biases keep them;
 * - dynamo: node metadata `pkg.torch.onnx.name_scopes`, and dotted initializer names;
 * - the onnxruntime-genai builder: node `/model/layers.0/attn/q_proj/MatMul`;
 * - ONNX Runtime's quantisers: the same with `_Q4`, `_quant` and the like behind.
 */

/** The last part of an exported node's name: an operator, counted, perhaps quantised or fused. */
const operatorPart =
  /^(MatMul|Gemm|MatMulNBits|MatMulInteger|FusedMatMul|DynamicQuantizeMatMul|Einsum|linear|addmm)(_?\d+)?(_matmul)?(_(Q\d+|q\d+|quant|quantized|bnb4|fp16|nbits|kquant))*$/i;

const quantisedSuffix = /(_Q\d+\w*|_quantized|_quant|\.MatMul(NBits)?)+$/;

/** Metadata key of a product whose module has its final name already: the encoder's, in a graph joined of two. */
export const moduleName = 'onnx-alora.module';

/** The module path that an exporter left for the node, or undefined. Not yet freed from wrappers. */
export function exportedPath(
  node: Pick<Node, 'name' | 'metadata'>,
  weight: Value,
  bias: Value | null,
): string | undefined {
  return (
    node.metadata.get(moduleName) ??
    scopePath(node) ??
    nodePath(node.name) ??
    parameterPath(weight.name) ??
    biasPath(bias)
  );
}

/** Dynamo: a Python list, from the root scope '' to the operator; the module is the last but one. */
function scopePath(node: Pick<Node, 'metadata'>): string | undefined {
  const list = node.metadata.get('pkg.torch.onnx.name_scopes');
  if (!list) return undefined;
  const scopes = [...list.matchAll(/'([^']*)'|"([^"]*)"/g)].map((match) => match[1] ?? match[2] ?? '');
  const path = scopes.length >= 2 ? scopes[scopes.length - 2] : undefined;
  return path === '' ? undefined : path;
}

function nodePath(name: string): string | undefined {
  const parts = name.split('/').filter((part) => part !== '');
  const end = parts.findIndex((part) => operatorPart.test(part));
  return end > 0 ? parts.slice(0, end).join('.') : undefined;
}

function parameterPath(name: string): string | undefined {
  const match = /^([A-Za-z_][\w.-]*)\.q?weight$/.exec(name.replace(quantisedSuffix, ''));
  return match?.[1]?.replace(quantisedSuffix, '');
}

function biasPath(bias: Value | null): string | undefined {
  const match = /^([A-Za-z_][\w.-]*)\.bias$/.exec(bias?.name.replace(quantisedSuffix, '') ?? '');
  return match?.[1]?.replace(/\.(MatMul|Add)$/, '');
}

/** transformers' base_model_prefix by model_type, where it is not `model`. null: the stacks stand at the root. */
const basePrefixes: Readonly<Record<string, string | null>> = {
  gpt2: 'transformer',
  gptj: 'transformer',
  gpt_neo: 'transformer',
  gpt_bigcode: 'transformer',
  codegen: 'transformer',
  bloom: 'transformer',
  falcon: 'transformer',
  mpt: 'transformer',
  'openai-gpt': 'transformer',
  gpt_neox: 'gpt_neox',
  bert: 'bert',
  roberta: 'roberta',
  'xlm-roberta': 'roberta',
  camembert: 'roberta',
  distilbert: 'distilbert',
  electra: 'electra',
  albert: 'albert',
  mpnet: 'mpnet',
  deberta: 'deberta',
  'deberta-v2': 'deberta',
  mobilebert: 'mobilebert',
  squeezebert: 'transformer',
  vit: 'vit',
  deit: 'deit',
  beit: 'beit',
  dinov2: 'dinov2',
  t5: null,
  mt5: null,
  umt5: null,
};

/** The prefix of backbone modules in the model class that config.json names; undefined when nothing is said. */
function basePrefix(config: ModelConfig): string | null | undefined {
  const type = config.model_type;
  if (typeof type !== 'string') return undefined;
  return Object.hasOwn(basePrefixes, type) ? basePrefixes[type] : 'model';
}

function commonSegments(paths: readonly (readonly string[])[]): readonly string[] {
  const [first = [], ...rest] = paths;
  let length = first.length;
  for (const path of rest) {
    let same = 0;
    while (same < length && path[same] === first[same]) same++;
    length = same;
  }
  return first.slice(0, length);
}

/**
 * Turns exported paths into PEFT's names. Wrappers around the exported model are cut off
 * (`model.model.layers.0` of a Llama is `model.layers.0`), and the backbone's prefix is added where a model
 * with a head was exported without it. A backbone without a head (BertModel) has no prefix, as in PEFT.
 */
export function peftNames(paths: readonly string[], config: ModelConfig, hasHead: boolean): string[] {
  const split = paths.map((path) => path.split('.'));
  const inBlocks = split.filter((segments) => blockAt(segments) > 0);
  const stack = commonSegments(inBlocks.map((segments) => segments.slice(0, blockAt(segments) - 1)));
  const wrapper = wrapperLength(stack, basePrefix(config), hasHead);
  const missing = half(stack, config, hasHead) ?? missingPrefix(stack.slice(wrapper), config, hasHead);
  const wrapped = stack.slice(0, wrapper);
  return split.map((segments) => {
    const inside = wrapped.every((segment, i) => segments[i] === segment);
    const own = inside && segments.length > wrapper ? segments.slice(wrapper) : segments;
    const name = missing && (blockAt(own) > 0 || own[0] === 'pooler') ? [missing, ...own] : own;
    return genaiAttention(name).join('.');
  });
}

/** How many leading segments belong to wrappers around the model that PEFT would adapt. */
function wrapperLength(
  stack: readonly string[],
  prefix: string | null | undefined,
  hasHead: boolean,
): number {
  // sentence-transformers: 0.auto_model.encoder.layer.0
  const outer = stack.indexOf('auto_model') + 1;
  if (prefix && stack.includes(prefix)) return stack.lastIndexOf(prefix) + (hasHead ? 0 : 1);
  let repeated = outer;
  while (stack[repeated] !== undefined && stack[repeated] === stack[repeated + 1]) repeated++;
  return repeated;
}

/** What the encoder's file of an encoder-decoder leaves out: it was exported as a model of its own. */
function half(stack: readonly string[], config: ModelConfig, hasHead: boolean): string | undefined {
  if (config.is_encoder_decoder !== true || hasHead) return undefined;
  const prefix = basePrefix(config);
  const missing = [prefix, 'encoder'].filter((segment) => segment && !stack.includes(segment));
  return missing.length > 0 ? missing.join('.') : undefined;
}

function missingPrefix(stack: readonly string[], config: ModelConfig, hasHead: boolean): string | undefined {
  const prefix = basePrefix(config);
  if (!prefix || !hasHead || stack[0] === prefix) return undefined;
  const [architecture] = Array.isArray(config.architectures) ? config.architectures : [];
  return /For[A-Z]|LMHead/.test(String(architecture)) ? prefix : undefined;
}

/** The genai builder says `attn` where transformers says `self_attn`; GPT-J's `h.0.attn.q_proj` is its own. */
function genaiAttention(segments: readonly string[]): readonly string[] {
  const last = segments.length - 1;
  const renamed =
    /^(q|k|v|o|qkv)_proj$/.test(segments[last] ?? '') &&
    segments[last - 1] === 'attn' &&
    segments[last - 3] === 'layers';
  return renamed ? [...segments.slice(0, last - 1), 'self_attn', segments[last]!] : segments;
}

/** Position of the segment that is a block's index: the first number, as PEFT reads it. -1 outside blocks. */
function blockAt(segments: readonly string[]): number {
  return segments.findIndex((segment, i) => i > 0 && /^\d+$/.test(segment));
}

/** The block that a module stands in and its name within; outside the blocks null and the whole name. */
export function placeOf(name: string): { block: number | null; kind: string } {
  const segments = name.split('.');
  const at = blockAt(segments);
  return at < 0
    ? { block: null, kind: name }
    : { block: Number(segments[at]), kind: segments.slice(at + 1).join('.') };
}
