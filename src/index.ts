/**
 * onnx-alora: PEFT-style adapter training for ONNX transformers on stock ONNX Runtime.
 * @module
 */
import { resolveRunConfig } from './config/resolve.ts';
import type { RunConfig, RunConfigInput } from './config/schema.ts';
import * as shipped from './strategies.ts';
import type { StrategyRegistry } from './training/assemble.ts';
import type { EvaluateOptions, EvaluateResult } from './training/evaluate.ts';
import { evaluateRun } from './training/evaluate.ts';
import { type ExportResult, exportRunGraph } from './training/exportGraph.ts';
import type { RunInfo, RunResult } from './training/reporter.ts';
import { planRun, type TrainOptions, trainRun } from './training/train.ts';

export type { RunConfig, RunConfigInput } from './config/schema.ts';
export { AloraError, type ErrorDetails, type ErrorKind } from './errors.ts';
export { type GenerateOptions, type GenerateResult, generateFrom as generate } from './inference/generate.ts';
export {
  type Inspection,
  type InspectOptions,
  inspectModel as inspect,
  type ModuleSummary,
} from './inference/inspect.ts';
export { type MergeModelOptions, type MergeModelResult, mergeModel as merge } from './inference/merge.ts';
export { writeReport as report } from './report/index.ts';
export type { StrategyRegistry } from './training/assemble.ts';
export type { EvaluateOptions, EvaluateResult } from './training/evaluate.ts';
export type { ExportResult } from './training/exportGraph.ts';
export type * from './training/reporter.ts';

export interface WithStrategies {
  /** Strategies beside the shipped ones, by the word in the run file. A shipped name cannot be taken. */
  readonly strategies?: StrategyRegistry;
}

function registry({ strategies = {} }: WithStrategies): StrategyRegistry {
  const taken = Object.keys(strategies).find((name) => Object.hasOwn(shipped, name));
  if (taken !== undefined)
    throw new TypeError(`a strategy named '${taken}' ships with onnx-alora; choose another name`);
  return { ...shipped, ...strategies };
}

function resolved(config: RunConfigInput | RunConfig, strategies: StrategyRegistry): RunConfig {
  return resolveRunConfig(config, { strategies });
}

/**
 * Trains an adapter. `config` is a run file as an object: paths are relative to the working directory.
 * Returns what result.json holds. Errors are AloraError; aborting `signal` saves a checkpoint first.
 */
export async function train(
  config: RunConfigInput | RunConfig,
  options: Omit<TrainOptions, 'strategies'> & WithStrategies = {},
): Promise<RunResult> {
  const strategies = registry(options);
  return trainRun(resolved(config, strategies), { ...options, strategies });
}

/** The resolved plan of a run, with its budget; nothing is written. */
export async function plan(
  config: RunConfigInput | RunConfig,
  options: WithStrategies = {},
): Promise<RunInfo> {
  const strategies = registry(options);
  return planRun(resolved(config, strategies), strategies);
}

/** Loss and metrics on a split, of the base model or with an adapter. */
export async function evaluate(
  config: RunConfigInput | RunConfig,
  options: EvaluateOptions & WithStrategies = {},
): Promise<EvaluateResult> {
  return evaluateRun(resolved(config, registry(options)), options);
}

/** Writes the training graph of a run as plain ONNX files with a manifest, for any ONNX Runtime. */
export async function exportGraph(
  config: RunConfigInput | RunConfig,
  options: { readonly out: string } & WithStrategies,
): Promise<ExportResult> {
  const strategies = registry(options);
  return exportRunGraph(resolved(config, strategies), strategies, options.out);
}
