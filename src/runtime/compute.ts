import { AloraError } from '../errors.ts';
import type { Model } from '../onnx/graph.ts';
import type { Tensor } from '../onnx/tensor.ts';
import { fewestWeights, type Int8Weight, int8Products } from '../passes/int8Products.ts';
import { quantiseWeight } from '../passes/int8Weight.ts';
import { int8Overflows } from './int8Overflow.ts';
import type { Workspace } from './workspace.ts';

/** How products with frozen weights are computed. */
export type Compute = 'float32' | 'int8';

/** Makes a graph compute in 8 bits, in place, and returns how many products do. */
export type ToInt8 = (model: Model) => Promise<number>;

/**
 * A rewrite for all graphs over one model: each weight is rounded once in each direction that some graph reads it in,
 * and lies in the workspace as the float weights do. `outputWeights` as in AdaptedModel.
 */
export function openInt8(workspace: Workspace, outputWeights: ReadonlyMap<Tensor, number>): ToInt8 {
  const straight = new Map<Tensor, Int8Weight>();
  const transposes = new Map<Tensor, Int8Weight>();
  const quantise = (weight: Tensor, transposed: boolean, most: number): Int8Weight => {
    const made = transposed ? transposes : straight;
    let rounded = made.get(weight);
    if (!rounded) {
      const { values, scales } = quantiseWeight(weight, transposed, most);
      rounded = { values: workspace.store([values])[0]!, scales };
      made.set(weight, rounded);
    }
    return rounded;
  };
  return async (model) => {
    const most = (await int8Overflows()) ? 64 : 127;
    return int8Products(model, {
      quantise: (weight, transposed) => quantise(weight, transposed, most),
      forwardOnly: outputWeights,
    });
  };
}

/** Refuses a training step in which nothing became an 8-bit product. Errors: COMPUTE_NOTHING. */
export function requireInt8(products: number): void {
  if (products === 0)
    throw new AloraError('config', 'COMPUTE_NOTHING', 'model.compute: int8 finds no product to round', {
      where: 'model.compute',
      got: `no product with a frozen float weight of ${fewestWeights} scalars or more`,
      fix: 'Leave model.compute out: the weights of this file are quantised already, or too small to gain.',
    });
}
