import { readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { AloraError } from '../errors.ts';
import { decodeModel } from '../onnx/decode.ts';
import type { DType } from '../onnx/dtype.ts';
import { describe, type Graph, type Node, type Value } from '../onnx/graph.ts';
import { type ExternalData, Tensor } from '../onnx/tensor.ts';
import { otherDimensions } from './adapterMismatch.ts';
import type { LinearModule, ModelConfig, ModuleUse } from './module.ts';
import { packAdapter } from './packAdapter.ts';
import type { LowRankWeights, PeftAdapter } from './peft.ts';
import { constantOf, hasHead, linearModulesOf, setConstant } from './targets.ts';

/** One tensor of a file to be rewritten in place. */
export interface Patch {
  /** The file that holds the bytes (.onnx or external data), relative to the model's folder. */
  readonly file: string;
  /** First byte of the tensor in that file. */
  readonly offset: number;
  readonly dtype: DType;
  readonly dims: readonly number[];
  /** Name of the tensor in the graph. */
  readonly tensor: string;
  readonly module: string;
  /** The adapter's entry that it comes from: a module, or a tensor of modulesToSave. */
  readonly key: string;
  /** Adds the adapter's product, or replaces the values (in the tensor's own layout). */
  readonly change:
    | { readonly kind: 'add'; readonly weights: LowRankWeights; readonly layout: 'in-out' | 'out-in' }
    | { readonly kind: 'set'; readonly values: Float32Array };
}

/**
 * The patches that fold the adapter into one .onnx file of float weights; none where it holds no module of the adapter.
 */
export function patchesOf(root: string, file: string, config: ModelConfig, given: PeftAdapter): Patch[] {
  const path = join(root, file);
  const bytes = readFileSync(path);
  const model = decodeModel(bytes, path);
  const modules = graphsOf(model.graph).flatMap((graph) =>
    linearModulesOf(graph, config, hasHead(model.graph), { within: true }),
  );
  const adapter = packAdapter(given, modules, config);
  const users = usersByWeight(modules);
  const patches = new Map<Value, Patch>();
  const add = (value: Value, tensor: Tensor, readers: ReadonlySet<Node>, patch: Omit<Patch, keyof Place>) => {
    refuseShared(file, value, readers, patch.module);
    const known = patches.get(value);
    // Both branches of an If may hold the module and share its weight: one patch serves them.
    if (known?.key === patch.key) return;
    if (known) throw shared(file, value.name, patch.module, known.module);
    patches.set(value, { ...patch, ...placeOf(root, file, bytes, value, tensor) });
  };
  for (const module of modules) {
    const weights = adapter.modules.get(module.name);
    if (weights && weights.rank > 0) {
      checkShape(file, module, adapter, weights.in, weights.out);
      for (const { value, tensor, layout } of module.uses.map((use) => use.weight)) {
        const change = { kind: 'add', weights, layout } as const;
        add(value, tensor, users.get(value)!, { module: module.name, key: module.name, change });
      }
    }
    const saved = adapter.saved.get(`${module.name}.weight`);
    if (saved) {
      const [rows = 0, columns = 0] = saved.dims;
      checkShape(
        file,
        module,
        adapter,
        ...(module.fanInFanOut ? ([rows, columns] as const) : ([columns, rows] as const)),
      );
      for (const { value, tensor, layout } of module.uses.map((use) => use.weight)) {
        const turn = (layout === 'in-out') !== module.fanInFanOut;
        const values = turn ? transposed(saved.toFloat32(), rows, columns) : saved.toFloat32();
        const change = { kind: 'set', values } as const;
        add(value, tensor, users.get(value)!, { module: module.name, key: `${module.name}.weight`, change });
      }
    }
    const bias = adapter.saved.get(`${module.name}.bias`);
    if (bias) {
      const constant = biasOf(file, module, adapter, bias);
      const change = { kind: 'set', values: bias.toFloat32() } as const;
      add(constant.value, constant.tensor, new Set(module.uses.flatMap(biasReaders)), {
        module: module.name,
        key: `${module.name}.bias`,
        change,
      });
    }
  }
  refusePartial(file, config, adapter, modules);
  return [...patches.values()];
}

/**
 * One patch for each place: files may share external data, and then agree. Errors: MODEL_WEIGHT_SHARED where
 * two modules have their weights in one place.
 */
export function uniquePatches(patches: readonly Patch[]): Patch[] {
  const places = new Map<string, Patch>();
  for (const patch of patches) {
    const place = `${patch.file}:${patch.offset}`;
    const known = places.get(place);
    if (known && known.key !== patch.key) throw shared(patch.file, patch.tensor, patch.module, known.module);
    places.set(place, patch);
  }
  return [...places.values()];
}

/** The graph and its subgraphs at any depth. */
export function graphsOf(graph: Graph): Graph[] {
  return [graph, ...graph.nodes.flatMap((node) => node.subgraphs().flatMap(graphsOf))];
}

/** Every node that uses a weight as the weight of a linear layer. */
function usersByWeight(modules: readonly LinearModule[]): Map<Value, Set<Node>> {
  const users = new Map<Value, Set<Node>>();
  for (const { node, weight } of modules.flatMap(({ uses }) => uses))
    users.set(weight.value, (users.get(weight.value) ?? new Set<Node>()).add(node));
  return users;
}

/** The layer's bias, in whose place the adapter's is to be. Errors: ADAPTER_MISMATCH. */
function biasOf(file: string, module: LinearModule, adapter: PeftAdapter, bias: Tensor) {
  const constant = constantOf(module.bias);
  if (!constant || constant.tensor.size !== bias.size || bias.size !== module.out)
    throw otherDimensions(adapter, `${module.name}.bias`, {
      got: `[${bias.dims}]`,
      allowed: constant ? `[${constant.tensor.size}], as in ${file}` : `none, as in ${file}`,
    });
  return constant;
}

/** Replaces a layer's bias in its graph. Errors: ADAPTER_MISMATCH, MODEL_WEIGHT_SHARED. */
export function setBias(file: string, module: LinearModule, adapter: PeftAdapter, bias: Tensor): void {
  const { value, tensor } = biasOf(file, module, adapter, bias);
  refuseShared(file, value, new Set(module.uses.flatMap(biasReaders)), module.name);
  setConstant(value, Tensor.of(tensor.dtype, bias.toFloat32(), tensor.dims));
}

/** What may read a layer's bias: its own node, or the Add behind its product. */
export function biasReaders({ node, output }: ModuleUse): Node[] {
  return [node, ...[...output.users].filter(({ op }) => op === 'Add')];
}

/** Operations that pass the elements of their input on. */
const views: ReadonlySet<string> = new Set(['Identity', 'Cast', 'Transpose']);

/** Nodes that read a constant, seen through views and into subgraphs. */
function readersOf(value: Value, through: ReadonlySet<string>): Node[] {
  return [...value.users].flatMap((node) => {
    // The nodes within a subgraph are users themselves.
    if (node.subgraphs().length > 0 && !node.inputs.includes(value)) return [];
    return through.has(node.op) ? readersOf(node.output, through) : [node];
  });
}

/** A node beside `own` that reads a constant, as it is or through views and the operators of `through`. */
export function otherReader(
  value: Value,
  own: ReadonlySet<Node>,
  ...through: readonly string[]
): Node | undefined {
  return readersOf(value, new Set([...views, ...through])).find((node) => !own.has(node));
}

function refuseShared(file: string, value: Value, own: ReadonlySet<Node>, module: string): void {
  const other = otherReader(value, own);
  if (other) throw shared(file, value.name, module, describe(other));
}

function shared(file: string, tensor: string, module: string, other: string): AloraError {
  return new AloraError('model', 'MODEL_WEIGHT_SHARED', 'A weight of the adapter is shared in the file', {
    where: `${file}, ${module}`,
    got: `'${tensor}' is also read by ${other}`,
    fix: 'Leave the module out of model.targets and adapter.modulesToSave, or export the model with the weight stored twice (untied).',
  });
}

/** Errors: ADAPTER_MISMATCH where a module of the adapter is not `width` -> `out` in the file. */
export function checkShape(
  file: string,
  module: LinearModule,
  adapter: PeftAdapter,
  width: number,
  out: number,
): void {
  if (module.in !== width || module.out !== out)
    throw otherDimensions(adapter, module.name, {
      got: `${width} -> ${out}`,
      allowed: `${module.in} -> ${module.out}, as in ${file}`,
    });
}

/** A file that lacks some of the modules would come out half merged. Encoder and decoder files share the work. */
export function refusePartial(
  file: string,
  config: ModelConfig,
  adapter: PeftAdapter,
  modules: readonly LinearModule[],
): void {
  const names = new Set(modules.map(({ name }) => name));
  const wanted = [...adapter.modules].flatMap(([name, { rank }]) => (rank > 0 ? [name] : []));
  const missing = wanted.filter((name) => !names.has(name));
  if (missing.length === 0 || missing.length === wanted.length || config.is_encoder_decoder === true) return;
  throw new AloraError('model', 'MODEL_MERGE_NO_PLACE', 'A file holds only a part of the adapted modules', {
    where: file,
    got: `no ${missing.slice(0, 3).join(', no ')}${missing.length > 3 ? ', ...' : ''}`,
    fix: 'Export this file again: it was fused or named in another way than the model that was trained.',
  });
}

type Place = Pick<Patch, 'file' | 'offset' | 'dtype' | 'dims' | 'tensor'>;

/** Where a tensor's bytes lie. Decoding leaves inline weights as views into the bytes of the file. */
function placeOf(root: string, file: string, bytes: Uint8Array, value: Value, tensor: Tensor): Place {
  const { dtype, dims } = tensor;
  const common = { dtype, dims, tensor: value.name };
  if (!/^(float32|float16|bfloat16)$/.test(dtype)) throw unpatchable(file, value, dtype);
  if (tensor.isExternal) {
    const { path, offset } = tensor.source as ExternalData;
    return { ...common, file: relative(root, path).split(sep).join('/'), offset };
  }
  const view = tensor.source as Uint8Array;
  const offset = view.byteOffset - bytes.byteOffset;
  if (view.buffer !== bytes.buffer || offset < 0 || offset + view.byteLength > bytes.byteLength)
    throw unpatchable(file, value, 'values in typed fields');
  return { ...common, file, offset };
}

function unpatchable(file: string, value: Value, got: string): AloraError {
  return new AloraError(
    'model',
    'MODEL_MERGE_STORAGE',
    'A weight is stored in a way that cannot be patched',
    {
      where: `${file}, '${value.name}'`,
      got,
      allowed: 'float32, float16 or bfloat16 as raw_data or external data',
      fix: 'Save the file again with onnx.save, whose weights are raw.',
    },
  );
}

/** The transpose of a row-major matrix [rows, columns]. */
export function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) result[j * rows + i] = values[i * columns + j]!;
  return result;
}
