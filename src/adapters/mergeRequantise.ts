import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AloraError } from '../errors.ts';
import { decodeModel } from '../onnx/decode.ts';
import type { Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import { type BranchedFile, placesIn } from './mergeBranch.ts';
import { checkShape, refusePartial, transposed } from './mergePlan.ts';
import { withProduct } from './mergeWrite.ts';
import type { LinearModule, ModelConfig, ModuleUse } from './module.ts';
import type { PeftAdapter } from './peft.ts';
import { gridOf, type QuantGrid } from './quantGrid.ts';
import { constantOf } from './targets.ts';

/**
 * Folds the adapter into a file of quantised weights and quantises the sums again, in the file's own format: no branch,
 * and the size of the base. Rounding takes away what of the update is below half a step of the grid. Each group (matrix,
 * channel or block) keeps its scale and zero point where that fits the new values better than ones made anew. undefined
 * for a file in which no module of the adapter is quantised. Errors: MODEL_REQUANTISE.
 */
export function requantisedOf(
  root: string,
  file: string,
  config: ModelConfig,
  given: PeftAdapter,
): BranchedFile | undefined {
  const path = join(root, file);
  const model = decodeModel(readFileSync(path), path);
  const { modules, adapter } = placesIn(model, config, given);
  const touched = modules.filter(
    ({ name }) => adapter.modules.has(name) || adapter.saved.has(`${name}.weight`),
  );
  if (!touched.some(({ uses }) => uses.some(({ weight }) => weight.storage !== 'float'))) return undefined;
  refusePartial(file, config, adapter, modules);
  const owners = new Map<Value, string>();
  const keys = new Set<string>();
  for (const module of touched) {
    for (const use of module.uses) {
      const owner = owners.get(use.weight.value);
      if (owner !== undefined && owner !== module.name) throw refusal(file, module, `shared with ${owner}`);
      if (owner === undefined) foldInto(file, module, use, adapter);
      owners.set(use.weight.value, module.name);
    }
    if (adapter.modules.has(module.name)) keys.add(module.name);
    if (!adapter.saved.has(`${module.name}.weight`)) continue;
    keys.add(`${module.name}.weight`);
    const bias = adapter.saved.get(`${module.name}.bias`);
    const constant = constantOf(module.bias);
    if (bias && constant) {
      constant.value.initializer = Tensor.of(constant.tensor.dtype, bias.toFloat32(), constant.tensor.dims);
      keys.add(`${module.name}.bias`);
    }
  }
  return { file, model, modules: [...new Set(touched.map(({ name }) => name))], keys: [...keys] };
}

function refusal(file: string, module: LinearModule, got: string): AloraError {
  return new AloraError('model', 'MODEL_REQUANTISE', 'A quantised weight cannot be written again', {
    where: `${file}, ${module.name}`,
    got,
    allowed: 'int8 or uint8 per matrix or channel, 4 or 8 bits in blocks (MatMulNBits, DequantizeLinear)',
    fix: 'Merge without --requantise: the adapter then stands beside the weights.',
  });
}

function foldInto(file: string, module: LinearModule, use: ModuleUse, adapter: PeftAdapter): void {
  const { weight } = use;
  const grid = weight.storage === 'float' ? undefined : gridOf(use);
  if (weight.storage !== 'float' && !grid)
    throw refusal(file, module, `${use.node.op} with ${weight.tensor.dtype}`);
  const before = grid ? dequantised(grid) : weight.tensor.toFloat32();
  const after = changed(file, module, grid?.layout ?? weight.layout, before, adapter);
  if (grid) requantise(grid, after);
  else weight.value.initializer = Tensor.of(weight.tensor.dtype, after, weight.tensor.dims);
}

/** The weight with the adapter's product, or the one that the adapter saves in full. */
function changed(
  file: string,
  module: LinearModule,
  layout: 'in-out' | 'out-in',
  before: Float32Array,
  adapter: PeftAdapter,
): ArrayLike<number> {
  const saved = adapter.saved.get(`${module.name}.weight`);
  if (saved) {
    const [rows = 0, columns = 0] = saved.dims;
    const inOut = module.fanInFanOut;
    checkShape(file, module, ...(inOut ? ([rows, columns] as const) : ([columns, rows] as const)));
    const turn = (layout === 'in-out') !== inOut;
    return turn ? transposed(saved.toFloat32(), rows, columns) : saved.toFloat32();
  }
  const weights = adapter.modules.get(module.name)!;
  checkShape(file, module, weights.in, weights.out);
  return withProduct(before, weights, layout);
}

export function dequantised({ q, scales, zeros, group }: QuantGrid): Float32Array {
  return Float32Array.from({ length: q.length }, (_, i) => {
    const g = group(i);
    return (q[i]! - zeros[g]!) * scales[g]!;
  });
}

/** Writes the nearest numbers of the grid, with each group's scale and zero point as they are or made for its range. */
export function requantise(grid: QuantGrid, values: ArrayLike<number>): void {
  const { scales, zeros, group, lowest, highest, freeZeros, round } = grid;
  const groups = scales.length;
  const low = new Float64Array(groups);
  const high = new Float64Array(groups);
  for (let i = 0; i < values.length; i++) {
    const g = group(i);
    low[g] = Math.min(low[g]!, values[i]!);
    high[g] = Math.max(high[g]!, values[i]!);
  }
  const fresh = Array.from({ length: groups }, (_, g): [number, number] => {
    if (freeZeros) {
      const scale = round((high[g]! - low[g]!) / (highest - lowest)) || scales[g]!;
      return [scale, clamp(Math.round(lowest - low[g]! / scale), lowest, highest)];
    }
    // The integers on either side of the fixed zero point must reach both ends.
    const [below, above] = [zeros[g]! - lowest, highest - zeros[g]!];
    const scale = Math.max(below > 0 ? -low[g]! / below : 0, above > 0 ? high[g]! / above : 0);
    return [round(scale) || scales[g]!, zeros[g]!];
  });
  const errors = [new Float64Array(groups), new Float64Array(groups)] as const;
  const nearest = (value: number, scale: number, zero: number) =>
    clamp(roundHalfEven(value / scale) + zero, lowest, highest);
  const error = (value: number, scale: number, zero: number) =>
    ((nearest(value, scale, zero) - zero) * scale - value) ** 2;
  for (let i = 0; i < values.length; i++) {
    const g = group(i);
    errors[0][g]! += error(values[i]!, scales[g]!, zeros[g]!);
    errors[1][g]! += error(values[i]!, ...fresh[g]!);
  }
  const chosen = fresh.map((anew, g): [number, number] =>
    errors[1][g]! < errors[0][g]! ? anew : [scales[g]!, zeros[g]!],
  );
  const q = Int32Array.from({ length: values.length }, (_, i) => nearest(values[i]!, ...chosen[group(i)]!));
  grid.store(
    q,
    chosen.map(([scale]) => scale),
    chosen.map(([, zero]) => zero),
  );
}

const clamp = (value: number, low: number, high: number) => Math.min(high, Math.max(low, value));

/** As ONNX's QuantizeLinear rounds. */
function roundHalfEven(value: number): number {
  const rounded = Math.round(value);
  return Math.abs(value - Math.trunc(value)) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
