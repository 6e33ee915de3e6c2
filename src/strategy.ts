/**
 * The public strategy API: all that a third-party strategy or a foreign trainer needs.
 * @module
 */
export { z } from 'zod';
export { AdapterSet } from './adapters/adapterSet.ts';
export { costOfRank, resolveBudget, splitEvenly } from './adapters/budget.ts';
export { selectWithinBudget } from './adapters/keep.ts';
export { injectGatedLowRank, kaimingUniform, type LowRankOptions } from './adapters/lowRank.ts';
export type { TargetModule } from './adapters/module.ts';
export { packFloats, unpackFloats } from './adapters/packedFloats.ts';
export {
  noSensitivity,
  rowSensitivity,
  type Sensitivity,
  updateSensitivity,
} from './adapters/sensitivity.ts';
export * from './adapters/strategy.ts';
export { AloraError, type ErrorDetails, type ErrorKind } from './errors.ts';
export { type Random, randomStream } from './random.ts';
