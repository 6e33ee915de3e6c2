import { AloraError } from '../errors.ts';
import { Builder } from '../onnx/builder.ts';
import type { Dim, Graph, Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import type { LinearModule, ModelConfig, ModuleUse, ModuleWeight } from './module.ts';
import { placeOf } from './moduleNames.ts';
import { isFused, outputsOf, type Packing, packingOf } from './packing.ts';

/**
 * The modules with every fused projection replaced by its parts, in its place. The graph stays: a part has the fused
 * layer's nodes until `separateParts` gives it an output of its own. A layer whose parts cannot be told stays whole.
 */
export function partsOfFused(modules: readonly LinearModule[], config: ModelConfig): LinearModule[] {
  return modules
    .flatMap((module) => {
      const packing = packingOf(module, config);
      if (!packing) return [module];
      return packing.parts.map(({ name, rows }, position) => ({
        ...module,
        name,
        out: packing.groups * rows,
        ...placeOf(name),
        bias: null,
        part: { of: module, packing, position },
      }));
    })
    .map((module, index) => ({ ...module, index }));
}

/** Refuses targets that are fused and could not be split. Errors: CONFIG_SPLIT_FUSED. */
export function refuseWhole(targets: readonly LinearModule[], config: ModelConfig): void {
  const whole = targets.find(({ name, part }) => !part && isFused(name));
  if (!whole) return;
  throw new AloraError('config', 'CONFIG_SPLIT_FUSED', 'A fused projection cannot be split', {
    where: 'model.splitFused',
    got: `${whole.name} with ${whole.out} outputs, in a model of type ${String(config.model_type)}`,
    allowed:
      'layers whose layout is known: c_attn, qkv_proj, gate_up_proj, query_key_value (GPT-NeoX, BLOOM, Falcon), Wqkv (MPT, ModernBERT)',
    fix: 'Set model.splitFused to false: the fused projection is then one module, as PEFT sees it.',
  });
}

/**
 * Gives the parts among `modules` outputs of their own, in place: the fused product is split, and what read it reads
 * the parts put together again, so that replacing a part's output changes that part alone. Layers of which no part is
 * wanted stay as they are.
 */
export function separateParts(
  graph: Graph,
  modules: readonly LinearModule[],
  wanted: ReadonlySet<string>,
): LinearModule[] {
  const fused = new Set(
    modules.flatMap(({ name, part }) => (part && wanted.has(name) ? [part.of.name] : [])),
  );
  const separated = new Map<string, ModuleUse[][]>();
  return modules.map((module) => {
    const { part } = module;
    if (!part || !fused.has(part.of.name)) return module;
    const known = separated.get(part.of.name) ?? part.of.uses.map((use) => separate(graph, part, use));
    separated.set(part.of.name, known);
    const uses = known.map((parts) => parts[part.position]!);
    return { ...module, ...uses[0]!, uses };
  });
}

/** Splits one use of a fused layer; one use for each part. */
function separate(
  graph: Graph,
  { of, packing }: NonNullable<LinearModule['part']>,
  { node, input, output, weight }: ModuleUse,
): ModuleUse[] {
  const { groups, parts } = packing;
  const make = new Builder(graph, `/${of.name.replaceAll('.', '/')}/split`);
  const lead = (output.shape ?? input.shape ?? [null, null, null]).slice(0, -1);
  // 0 in a Reshape keeps a length.
  const keep = lead.map(() => 0);
  const dtype = output.dtype ?? 'float32';
  const reshaped = (value: Value, tail: readonly number[]) =>
    make.op('Reshape', [value, make.ints([...keep, ...tail])], { dtype, shape: [...lead, ...tail] as Dim[] });
  const rows = parts.map((part) => part.rows);
  const size = rows.reduce((sum, count) => sum + count, 0);
  const source = groups === 1 ? output : reshaped(output, [groups, size]);
  const split = make.node('Split', [source, make.ints(rows)], parts.length, { attributes: { axis: -1 } });
  const pieces = split.outputs.map((value, i) => {
    value!.dtype = dtype;
    value!.shape = groups === 1 ? [...lead, rows[i]!] : [...lead, groups, rows[i]!];
    return groups === 1 ? value! : reshaped(value!, [groups * rows[i]!]);
  });
  const grouped = groups === 1 ? pieces : pieces.map((piece, i) => reshaped(piece, [groups, rows[i]!]));
  const joined = make.op('Concat', grouped, {
    attributes: { axis: -1 },
    dtype,
    shape: groups === 1 ? [...lead, size] : [...lead, groups, size],
  });
  const whole = groups === 1 ? joined : reshaped(joined, [groups * size]);
  graph.replaceUses(output, whole, new Set([groups === 1 ? split : source.producer!]));
  return pieces.map((piece, position) => ({
    node,
    input,
    output: piece,
    weight: weightOf(make, weight, packing, position),
  }));
}

/** The part's rows of a float weight; those of a quantised one lie within the whole. */
function weightOf(make: Builder, weight: ModuleWeight, packing: Packing, position: number): ModuleWeight {
  if (weight.storage !== 'float') return weight;
  const places = make.constant(
    'outputs',
    Tensor.int64([...outputsOf(packing, position)], [outputsOf(packing, position).length]),
  );
  const axis = weight.layout === 'in-out' ? 1 : 0;
  return { ...weight, value: make.op('Gather', [weight.value, places], { attributes: { axis } }) };
}
