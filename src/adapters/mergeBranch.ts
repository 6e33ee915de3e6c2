import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Builder } from '../onnx/builder.ts';
import { cloneModel } from '../onnx/clone.ts';
import { decodeModel } from '../onnx/decode.ts';
import type { DType } from '../onnx/dtype.ts';
import type { Graph, Model, Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import { inferTypes } from '../passes/inferTypes.ts';
import { prune } from '../passes/prune.ts';
import { checkShape, graphsOf, refusePartial, transposed } from './mergePlan.ts';
import type { LinearModule, ModelConfig, ModuleUse } from './module.ts';
import { packAdapter } from './packAdapter.ts';
import type { LowRankWeights, PeftAdapter } from './peft.ts';
import { constantOf, hasHead, linearModulesOf } from './targets.ts';

/** A model file with the adapter as a branch beside its weights. */
export interface BranchedFile {
  readonly file: string;
  readonly model: Model;
  /** Modules of the adapter, heads included. */
  readonly modules: readonly string[];
  /** The adapter's entries that have found their place: modules, and tensors of modulesToSave. */
  readonly keys: readonly string[];
}

/**
 * Adds the adapter to a file whose weights are quantised: y + (x A^T) (s diag(g) B) with both factors as constants
 * in the type of x, each weight as it was. Rounding the sum to the weight's few bits would undo most of the update,
 * and the adapter was trained beside these very weights. Heads of modulesToSave become float products. undefined
 * for a file in which no module of the adapter is quantised: its weights can be patched (see patchesOf).
 */
export function branchesOf(
  root: string,
  file: string,
  config: ModelConfig,
  given: PeftAdapter,
): BranchedFile | undefined {
  const path = join(root, file);
  const model = decodeModel(readFileSync(path), path);
  const placed = placesOf(model, config);
  const adapter = packed(given, placed, config);
  const quantised = placed.some(
    ({ module }) =>
      (adapter.modules.has(module.name) || adapter.saved.has(`${module.name}.weight`)) &&
      module.uses.some(({ weight }) => weight.storage !== 'float'),
  );
  if (!quantised) return undefined;
  refusePartial(
    file,
    config,
    adapter,
    placed.map(({ module }) => module),
  );
  return { file, model, ...addBranches(model, file, config, adapter) };
}

interface Place {
  /** The graph, or the branch of an If, that the module stands in. */
  readonly graph: Graph;
  readonly module: LinearModule;
}

/** The linear layers of all graphs of a model, and the adapter as the file packs them. */
export function placesIn(
  model: Model,
  config: ModelConfig,
  adapter: PeftAdapter,
): { modules: LinearModule[]; adapter: PeftAdapter } {
  const places = placesOf(model, config);
  return { modules: places.map(({ module }) => module), adapter: packed(adapter, places, config) };
}

/** The adapter as the file packs its layers. */
function packed(adapter: PeftAdapter, places: readonly Place[], config: ModelConfig): PeftAdapter {
  return packAdapter(
    adapter,
    places.map(({ module }) => module),
    config,
  );
}

function placesOf(model: Model, config: ModelConfig): Place[] {
  return graphsOf(model.graph).flatMap((graph) =>
    linearModulesOf(graph, config, hasHead(model.graph)).map((module) => ({ graph, module })),
  );
}

/** Adds the adapter to a model in place, its factors as constants; every branch of an If gets it. */
export function addBranches(
  model: Model,
  file: string,
  config: ModelConfig,
  given: PeftAdapter,
): Pick<BranchedFile, 'modules' | 'keys'> {
  const types = typesOf(model);
  const factors = new Map<string, readonly [Value, Value]>();
  const keys = new Set<string>();
  const modules = new Set<string>();
  const places = placesOf(model, config);
  const adapter = packed(given, places, config);
  for (const { graph, module } of places) {
    const { name } = module;
    const weights = adapter.modules.get(name);
    if (weights && weights.rank > 0) {
      checkShape(file, module, weights.in, weights.out);
      for (const use of module.uses) {
        const dtype = types.get(use.input.name) ?? 'float32';
        const shared = factors.get(`${name} ${dtype}`) ?? factorsOf(model.graph, name, weights, dtype);
        factors.set(`${name} ${dtype}`, shared);
        addBranch(graph, name, use, ...shared);
      }
      keys.add(name);
      modules.add(name);
    }
    for (const key of replaceHead(model.graph, graph, file, module, adapter, types)) {
      keys.add(key);
      modules.add(name);
    }
  }
  if (adapter.saved.size > 0) prune(model.graph);
  return { modules: [...modules], keys: [...keys] };
}

/** Element types of all values by name, learnt on a copy: the file's own declarations stay as they are. */
function typesOf(model: Model): Map<string, DType> {
  const copy = cloneModel(model);
  inferTypes(copy);
  return new Map(
    graphsOf(copy.graph).flatMap((graph) =>
      [...graph.inputs, ...graph.nodes.flatMap((node) => node.outputs)].flatMap((value) =>
        value?.dtype ? [[value.name, value.dtype] as const] : [],
      ),
    ),
  );
}

/** A^T [in, rank] and s diag(g) B [rank, out], constants of the outer graph that every branch of an If reads. */
function factorsOf(
  outer: Graph,
  name: string,
  { rank, in: width, out, scale, gate, A, B }: LowRankWeights,
  dtype: DType,
): readonly [Value, Value] {
  const scaled = B.map((value, i) => value * scale * gate[Math.floor(i / out)]!);
  return [
    outer.constant(`${name}.lora_A`, Tensor.of(dtype, transposed(A, rank, width), [width, rank])),
    outer.constant(`${name}.lora_B`, Tensor.of(dtype, scaled, [rank, out])),
  ];
}

function addBranch(
  graph: Graph,
  name: string,
  { input, output }: ModuleUse,
  left: Value,
  right: Value,
): void {
  const make = new Builder(graph, `/${name.replaceAll('.', '/')}/lora`);
  const delta = make.op('MatMul', [make.op('MatMul', [input, left]), right]);
  replaceOutput(graph, output, make.op('Add', [output, delta]));
}

/** Readers take the new value; an output of the graph keeps its name and type. */
function replaceOutput(graph: Graph, old: Value, value: Value): void {
  const isOutput = graph.outputs.includes(old);
  graph.replaceUses(old, value, new Set([value.producer!]));
  if (!isOutput) return;
  const { name } = old;
  old.name = graph.unique(`${name}/base`);
  value.name = name;
  value.dtype = old.dtype;
  value.shape = old.shape;
}

/** Puts the trained weights of a head in the place of its product; returns the adapter's entries that it used. */
function replaceHead(
  outer: Graph,
  graph: Graph,
  file: string,
  module: LinearModule,
  adapter: PeftAdapter,
  types: ReadonlyMap<string, DType>,
): string[] {
  const saved = adapter.saved.get(`${module.name}.weight`);
  if (!saved) return [];
  const [rows = 0, columns = 0] = saved.dims;
  const inOut = module.fanInFanOut;
  checkShape(file, module, ...(inOut ? ([rows, columns] as const) : ([columns, rows] as const)));
  const values = inOut ? saved.toFloat32() : transposed(saved.toFloat32(), rows, columns);
  const dtype = types.get(module.input.name) ?? 'float32';
  const make = new Builder(graph, `/${module.name.replaceAll('.', '/')}/trained`);
  const weight = outer.constant(
    `${module.name}.weight.trained`,
    Tensor.of(dtype, values, [module.in, module.out]),
  );
  const bias = adapter.saved.get(`${module.name}.bias`);
  const constant = constantOf(module.bias);
  if (bias && constant) {
    const { dtype: own, dims } = constant.tensor;
    constant.value.initializer = Tensor.of(own, bias.toFloat32(), dims);
  }
  for (const { node, input, output } of module.uses) {
    const product = make.op('MatMul', [input, weight]);
    // Gemm and the fused products add the bias themselves.
    const fused = module.bias && node.inputs.includes(module.bias);
    replaceOutput(graph, output, fused ? make.op('Add', [product, module.bias]) : product);
  }
  return [`${module.name}.weight`, ...(bias ? [`${module.name}.bias`] : [])];
}
