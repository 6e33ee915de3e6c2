/**
 * onnx-alora: PEFT-style adapter training for ONNX transformers on stock ONNX Runtime.
 * @module
 */
import { type CompareReporter, runComparison } from './compare/compare.ts';
import { type CompareInput, compareInput } from './compare/file.ts';
import { inProcessRunner } from './compare/inProcessRunner.ts';
import { defaultJobs, localRunner } from './compare/localRunner.ts';
import type { CompareRecord } from './compare/record.ts';
import type { Runner } from './compare/runner.ts';
import { resolveRunConfig } from './config/resolve.ts';
import type { RunConfig, RunConfigInput } from './config/schema.ts';
import * as shipped from './strategies.ts';
import type { StrategyRegistry } from './training/assemble.ts';
import type { EvaluateOptions, EvaluateResult } from './training/evaluate.ts';
import { evaluateRun } from './training/evaluate.ts';
import { type ExportResult, exportRunGraph } from './training/exportGraph.ts';
import { planRun } from './training/prepareRun.ts';
import type { RunInfo, RunResult } from './training/reporter.ts';
import { type ScoreOptions, type ScoreResult, scoreAdapter } from './training/score.ts';
import { type TrainOptions, trainRun } from './training/train.ts';

export type { CompareReporter } from './compare/compare.ts';
export type { CompareInput } from './compare/file.ts';
export type {
  Check,
  Column,
  CompareRecord,
  MethodRecord,
  PlanRecord,
  RunRecord,
  SearchRecord,
  Trial,
  VariantRecord,
} from './compare/record.ts';
export type { Failure, Job, JobEvents, Runner } from './compare/runner.ts';
export type { RunConfig, RunConfigInput } from './config/schema.ts';
export { AloraError, type ErrorDetails, type ErrorKind } from './errors.ts';
export {
  type ExportServingOptions,
  exportServing as exportInferenceGraph,
} from './inference/exportServing.ts';
export { type GenerateOptions, type GenerateResult, generateFrom as generate } from './inference/generate.ts';
export {
  type Inspection,
  type InspectOptions,
  inspectModel as inspect,
  type ModuleSummary,
} from './inference/inspect.ts';
export { loadModel } from './inference/loadModel.ts';
export { type MergeModelOptions, type MergeModelResult, mergeModel as merge } from './inference/merge.ts';
export type * from './inference/requests.ts';
export { writeReport as report } from './report/index.ts';
export type { StrategyRegistry } from './training/assemble.ts';
export type { EvaluateOptions, EvaluateResult } from './training/evaluate.ts';
export type { ExportResult } from './training/exportGraph.ts';
export type {
  AllocationEvent,
  AnswersEvent,
  BudgetCount,
  BudgetReport,
  CheckpointEvent,
  EvalEvent,
  MetricsEvent,
  ModuleInfo,
  Reporter,
  RunInfo,
  RunResult,
  SampleEvent,
  SplitInfo,
  SplitResult,
  StepEvent,
} from './training/reporter.ts';
export type { ScoreOptions, ScoreResult } from './training/score.ts';

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

/** How `compare` runs a comparison. */
export interface CompareOptions extends WithStrategies {
  /** Worker processes at the same time; by default from cores and memory. */
  readonly jobs?: number;
  /** Where runs run; by default worker processes, or this one where strategies are given as objects. */
  readonly runner?: Runner;
  readonly reporter?: CompareReporter;
  /** Aborting it saves a checkpoint of every run and ends with AloraError INTERRUPTED. */
  readonly signal?: AbortSignal;
  /** Runs again what diverged; other failures are always tried again. */
  readonly retry?: boolean;
  /** For the record in compare.json. */
  readonly command?: string;
}

/**
 * Compares strategies under one budget: every one with every seed, what has finished left alone. `input` is a compare
 * file as an object: paths are relative to the working directory. Returns what compare.json holds; failed runs are
 * part of it.
 */
export async function compare(input: CompareInput, options: CompareOptions = {}): Promise<CompareRecord> {
  const strategies = registry(options);
  const file = await compareInput(input, strategies);
  return runComparison(file, {
    ...options,
    runner:
      options.runner ??
      (options.strategies
        ? inProcessRunner({ strategies })
        : (model, threads) => localRunner({ jobs: options.jobs ?? defaultJobs(model, threads) })),
  });
}

/** Writes the training graph of a run as plain ONNX files with a manifest, for any ONNX Runtime. */
export async function exportGraph(
  config: RunConfigInput | RunConfig,
  options: { readonly out: string } & WithStrategies,
): Promise<ExportResult> {
  const strategies = registry(options);
  return exportRunGraph(resolved(config, strategies), strategies, options.out);
}

/** Importance of every rank of an adapter on the dev rows of a run: ours, or one that PEFT made. */
export async function score(
  config: RunConfigInput | RunConfig,
  options: ScoreOptions & WithStrategies,
): Promise<ScoreResult> {
  return scoreAdapter(resolved(config, registry(options)), shipped.alora.score, options);
}
