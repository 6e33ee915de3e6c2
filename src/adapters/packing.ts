import type { LinearModule, ModelConfig } from './module.ts';

/** How the output of a fused projection is made of parts. */
export interface Packing {
  /** Stretches of equal form along the output: heads, where each has its query, key and value; else 1. */
  readonly groups: number;
  /** The parts in their order within a group, with their numbers of outputs there. */
  readonly parts: readonly PackedPart[];
  /** Whether the original model has one layer too, and PEFT adapts it as one; else an exporter packed several. */
  readonly fusedInOriginal: boolean;
}

export interface PackedPart {
  /** Full name of the part as a module. */
  readonly name: string;
  readonly rows: number;
}

/** Names that fused projections have, at the end of a path. */
const fusedEndings = /(^|\.)(qkv_proj|query_key_value|c_attn|gate_up_proj|Wqkv)$/;

/** Model types whose layers are separate in transformers, whatever an exporter made of them. */
const separate =
  /^(bert$|roberta$|xlm-roberta$|camembert$|electra$|vit$|deit$|llama|mistral|mixtral|qwen[23]|gemma|smollm|granite|olmo|phi$|stablelm|nemotron|ernie|cohere|deepseek)/;

/** A fused projection by its name, whether its parts can be told or not. */
export const isFused = (name: string): boolean => fusedEndings.test(name);

/**
 * The parts of a fused projection: query, key and value are called `q_proj`, `k_proj`, `v_proj` beside the layer that
 * they come from (`query`, `key`, `value` in BERT and its like), the halves of a gated feed-forward `gate_proj` and `up_proj`. undefined where the layer is not
 * fused, or its layout is not known for the model type or does not add up.
 */
export function packingOf(
  { name, out }: Pick<LinearModule, 'name' | 'out'>,
  config: ModelConfig,
): Packing | undefined {
  const ending = fusedEndings.exec(name)?.[2];
  const layout = ending && layouts[ending]?.(config, out, name);
  if (!layout) return undefined;
  const path = name.slice(0, name.length - ending.length);
  const parts = Object.entries(layout.rows).map(([part, rows]) => ({ name: `${path}${part}`, rows }));
  const total = layout.groups * parts.reduce((sum, { rows }) => sum + rows, 0);
  if (total !== out || parts.some(({ rows }) => !Number.isInteger(rows))) return undefined;
  return { groups: layout.groups, parts, fusedInOriginal: !separate.test(String(config.model_type)) };
}

/** Places of a part's outputs in the fused layer's, in order. */
export function outputsOf({ groups, parts }: Packing, position: number): Int32Array {
  const size = parts.reduce((sum, { rows }) => sum + rows, 0);
  const before = parts.slice(0, position).reduce((sum, { rows }) => sum + rows, 0);
  const { rows } = parts[position]!;
  return Int32Array.from(
    { length: groups * rows },
    (_, i) => Math.floor(i / rows) * size + before + (i % rows),
  );
}

/** What a layer that packs this one with others may be called. */
export function fusedNames(name: string): string[] {
  const [, path, part] = /^(.*\.)?([qkv]_proj|query|key|value|gate_proj|up_proj)$/.exec(name) ?? [];
  if (!part) return [];
  if (!part.includes('_')) return [`${path ?? ''}query_key_value`];
  const fused = /^[qkv]/.test(part) ? ['qkv_proj', 'c_attn', 'query_key_value', 'Wqkv'] : ['gate_up_proj'];
  return fused.map((ending) => `${path ?? ''}${ending}`);
}

interface Layout {
  readonly groups: number;
  readonly rows: Readonly<Record<string, number>>;
}
type LayoutOf = (config: ModelConfig, out: number, name: string) => Layout | undefined;

function number(config: ModelConfig, ...keys: readonly string[]): number | undefined {
  return keys.map((key) => config[key]).find((value): value is number => typeof value === 'number');
}

const headsOf = (config: ModelConfig) => number(config, 'num_attention_heads', 'n_head') ?? 0;
const sizeOf = (config: ModelConfig) =>
  number(config, 'head_dim') ?? (number(config, 'hidden_size', 'n_embd') ?? 0) / headsOf(config);

const inOrder = (q: number, k: number, v: number): Layout => ({
  groups: 1,
  rows: { q_proj: q, k_proj: k, v_proj: v },
});

/** Each head's query, key and value stand together. */
function byHead(config: ModelConfig): Layout {
  const size = sizeOf(config);
  return { groups: headsOf(config), rows: { q_proj: size, k_proj: size, v_proj: size } };
}

/** All queries, then the one key and the one value that all heads share. */
function multiQuery(config: ModelConfig): Layout {
  const size = sizeOf(config);
  return inOrder(headsOf(config) * size, size, size);
}

const layouts: Readonly<Record<string, LayoutOf>> = {
  gate_up_proj: (_, out) => ({ groups: 1, rows: { gate_proj: out / 2, up_proj: out / 2 } }),
  qkv_proj(config) {
    // CodeGen packs query, value, key in four stretches.
    if (config.model_type === 'codegen') return undefined;
    const [heads, size] = [headsOf(config), sizeOf(config)];
    const keys = number(config, 'num_key_value_heads') ?? heads;
    return inOrder(heads * size, keys * size, keys * size);
  },
  query_key_value(config, out) {
    const type = String(config.model_type);
    // ONNX Runtime's optimiser packs what is apart in the model.
    if (separate.test(type)) return { groups: 1, rows: { query: out / 3, key: out / 3, value: out / 3 } };
    if (/^(gpt_neox|gpt_neox_japanese|bloom)$/.test(type)) return byHead(config);
    if (!/^(falcon|RefinedWeb|RefinedWebModel)$/.test(type)) return undefined;
    if (config.new_decoder_architecture === true) {
      const [size, groups] = [sizeOf(config), number(config, 'num_kv_heads') ?? headsOf(config)];
      return { groups, rows: { q_proj: (headsOf(config) / groups) * size, k_proj: size, v_proj: size } };
    }
    return config.multi_query === false ? byHead(config) : multiQuery(config);
  },
  c_attn(config, out, name) {
    if (config.model_type === 'gpt_bigcode')
      return config.multi_query === false ? byHead(config) : multiQuery(config);
    // In cross-attention the query is a layer of its own.
    if (name.includes('crossattention')) return { groups: 1, rows: { k_proj: out / 2, v_proj: out / 2 } };
    return inOrder(out / 3, out / 3, out / 3);
  },
  Wqkv: (config, out) =>
    /^(mpt|modernbert)$/.test(String(config.model_type)) ? inOrder(out / 3, out / 3, out / 3) : undefined,
};
