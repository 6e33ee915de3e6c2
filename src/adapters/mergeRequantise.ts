import { AloraError } from '../errors.ts';
import { describe, type Graph, type Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import { checkShape, otherReader, setBias, transposed } from './mergePlan.ts';
import { withProduct } from './mergeWrite.ts';
import type { LinearModule, ModelConfig, ModuleUse } from './module.ts';
import type { PeftAdapter } from './peft.ts';
import { dequantised, gridOf, type QuantGrid, quantiserOf } from './quantGrid.ts';
import { type AdaptedFile, openQuantised } from './quantisedFile.ts';
import { constantOf, setConstant } from './targets.ts';

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
): AdaptedFile | undefined {
  const opened = openQuantised(root, file, config, given);
  if (!opened) return undefined;
  const { model, adapter, touched } = opened;
  const keys = new Set<string>();
  const folded = new Set<Value>();
  for (const module of touched) {
    // Both branches of an If may hold the module and share its weight.
    const all = touched.flatMap(({ name, uses }) => (name === module.name ? uses : []));
    for (const weight of new Set(module.uses.map((use) => use.weight.value))) {
      if (folded.has(weight)) continue;
      folded.add(weight);
      const uses = all.filter((use) => use.weight.value === weight);
      const other = otherReader(weight, new Set(uses.map(({ node }) => node)), 'DequantizeLinear');
      if (other) throw refusal(file, module, `a weight that ${describe(other)} reads too`);
      keepApart(model.graph, file, module, uses);
      foldInto(file, module, uses[0]!, adapter);
    }
    if (adapter.modules.has(module.name)) keys.add(module.name);
    if (!adapter.saved.has(`${module.name}.weight`)) continue;
    keys.add(`${module.name}.weight`);
    const bias = adapter.saved.get(`${module.name}.bias`);
    if (!bias) continue;
    setBias(file, module, adapter, bias);
    keys.add(`${module.name}.bias`);
  }
  return { file, model, modules: [...new Set(touched.map(({ name }) => name))], keys: [...keys] };
}

/**
 * Gives a weight, in place, a scale and a zero point of its own where an optimiser has stored equal ones of several
 * weights once.
 */
function keepApart(outer: Graph, file: string, module: LinearModule, uses: readonly ModuleUse[]): void {
  const quantisers = uses.flatMap(({ node }) => quantiserOf(node) ?? []);
  const readers = new Set(quantisers.flatMap((quantiser) => quantiser.readers));
  for (const value of new Set(quantisers.flatMap(({ scale, zero }) => [scale, zero]))) {
    const constant = constantOf(value);
    const other = constant && otherReader(constant.value, readers);
    if (!value || !other) continue;
    if (!value.initializer)
      throw refusal(file, module, `a scale or zero point that ${describe(other)} reads too`);
    const own = outer.constant(`${value.name}/${module.name}`, value.initializer);
    for (const reader of readers)
      reader.inputs.forEach((input, i) => {
        if (input === value) reader.setInput(i, own);
      });
  }
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
  else setConstant(weight.value, Tensor.of(weight.tensor.dtype, after, weight.tensor.dims));
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
    checkShape(file, module, adapter, ...(inOut ? ([rows, columns] as const) : ([columns, rows] as const)));
    const turn = (layout === 'in-out') !== inOut;
    return turn ? transposed(saved.toFloat32(), rows, columns) : saved.toFloat32();
  }
  const weights = adapter.modules.get(module.name)!;
  checkShape(file, module, adapter, weights.in, weights.out);
  return withProduct(before, weights, layout);
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
