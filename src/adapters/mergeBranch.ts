import { Builder } from '../onnx/builder.ts';
import { cloneModel } from '../onnx/clone.ts';
import type { DType } from '../onnx/dtype.ts';
import type { Graph, Model, Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import { inferTypes } from '../passes/inferTypes.ts';
import { prune } from '../passes/prune.ts';
import { checkShape, graphsOf, setBias, transposed } from './mergePlan.ts';
import type { LinearModule, ModelConfig, ModuleUse } from './module.ts';
import type { LowRankWeights, PeftAdapter } from './peft.ts';
import { type AdaptedFile, openQuantised, packedFor, placesOf } from './quantisedFile.ts';
import { constantOf } from './targets.ts';

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
): AdaptedFile | undefined {
  const opened = openQuantised(root, file, config, given);
  return opened && { file, model: opened.model, ...addBranches(opened.model, file, config, given) };
}

/** Adds the adapter to a model in place, its factors as constants; every branch of an If gets it. */
export function addBranches(
  model: Model,
  file: string,
  config: ModelConfig,
  given: PeftAdapter,
): Pick<AdaptedFile, 'modules' | 'keys'> {
  const types = typesOf(model);
  const factors = new Map<string, readonly [Value, Value]>();
  const keys = new Set<string>();
  const modules = new Set<string>();
  const places = placesOf(model, config);
  const adapter = packedFor(places, given, config);
  const replaced = new Map<Value, Value>();
  for (const { graph, module } of places) {
    const { name } = module;
    const at = { outer: model.graph, graph, file, types, replaced };
    const weights = adapter.modules.get(name);
    if (weights && weights.rank > 0) {
      checkShape(file, module, adapter, weights.in, weights.out);
      for (const use of module.uses) {
        const dtype = typeOfInput(at, use);
        const shared = factors.get(`${name} ${dtype}`) ?? factorsOf(model.graph, name, weights, dtype);
        factors.set(`${name} ${dtype}`, shared);
        addBranch(at, name, use, ...shared);
      }
      keys.add(name);
      modules.add(name);
    }
    for (const key of replaceHead(at, module, adapter)) {
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

/** Where a module is rewritten. */
interface Site {
  readonly outer: Graph;
  readonly graph: Graph;
  readonly file: string;
  readonly types: ReadonlyMap<string, DType>;
  /** What stands in the place of a layer's output. The next layer may read that output directly. */
  readonly replaced: Map<Value, Value>;
}

const inputOf = ({ replaced }: Site, { input }: ModuleUse) => replaced.get(input) ?? input;
const typeOfInput = (at: Site, use: ModuleUse) => at.types.get(inputOf(at, use).name) ?? 'float32';

function replaceOutput({ graph, replaced }: Site, { output }: ModuleUse, value: Value): void {
  graph.takePlace(output, value, new Set([value.producer!]));
  replaced.set(output, value);
}

function addBranch(at: Site, name: string, use: ModuleUse, left: Value, right: Value): void {
  const make = new Builder(at.graph, `/${name.replaceAll('.', '/')}/lora`);
  const delta = make.op('MatMul', [make.op('MatMul', [inputOf(at, use), left]), right]);
  replaceOutput(at, use, make.op('Add', [use.output, delta]));
}

/** Puts the trained weights of a head in the place of its product; returns the adapter's entries that it used. */
function replaceHead(at: Site, module: LinearModule, adapter: PeftAdapter): string[] {
  const saved = adapter.saved.get(`${module.name}.weight`);
  if (!saved) return [];
  const [rows = 0, columns = 0] = saved.dims;
  const inOut = module.fanInFanOut;
  checkShape(at.file, module, adapter, ...(inOut ? ([rows, columns] as const) : ([columns, rows] as const)));
  const values = inOut ? saved.toFloat32() : transposed(saved.toFloat32(), rows, columns);
  const dtype = typeOfInput(at, module);
  const make = new Builder(at.graph, `/${module.name.replaceAll('.', '/')}/trained`);
  const weight = at.outer.constant(
    `${module.name}.weight.trained`,
    Tensor.of(dtype, values, [module.in, module.out]),
  );
  const bias = adapter.saved.get(`${module.name}.bias`);
  if (bias) setBias(at.file, module, adapter, bias);
  for (const use of module.uses) {
    const product = make.op('MatMul', [inputOf(at, use), weight]);
    // Gemm and the fused products add the bias themselves.
    const fused = module.bias && use.node.inputs.find((value) => constantOf(value)?.value === module.bias);
    replaceOutput(at, use, fused ? make.op('Add', [product, fused]) : product);
  }
  return [`${module.name}.weight`, ...(bias ? [`${module.name}.bias`] : [])];
}
