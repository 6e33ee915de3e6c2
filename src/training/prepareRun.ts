import { basename, relative } from 'node:path';
import type { AdapterScheduler } from '../adapters/strategy.ts';
import type { RunConfig } from '../config/schema.ts';
import { configHash } from '../config/write.ts';
import type { Workspace } from '../runtime/workspace.ts';
import { stepsPerEpoch } from '../tasks/batches.ts';
import { type Assembly, assemble, fetchModel, type StrategyRegistry } from './assemble.ts';
import type { RunHashes } from './checkpoint.ts';
import { loadRunData, type RunData } from './data.ts';
import { modelHash } from './modelHash.ts';
import type { RunInfo } from './reporter.ts';
import { warmupSteps } from './schedule.ts';

/** Everything that is known before the first step. */
export interface PreparedRun extends Assembly {
  readonly config: RunConfig;
  readonly data: RunData;
  readonly totalSteps: number;
  readonly stepsPerEpoch: number;
  readonly scheduler: AdapterScheduler | undefined;
  readonly hashes: RunHashes;
  readonly info: RunInfo;
}

export interface Preparation {
  /** Where graphs and weights are written. */
  readonly workspace?: Workspace;
  /** Another trainer makes the steps, with dev rows of its own. */
  readonly elsewhere?: boolean;
}

/** Opens model and data and resolves the plan; writes nothing to the output folder. */
export async function prepareRun(
  given: RunConfig,
  strategies: StrategyRegistry,
  { workspace, elsewhere = false }: Preparation = {},
): Promise<PreparedRun> {
  const opened = await fetchModel({ ...given.model, device: given.runtime.device }, workspace);
  try {
    const data = await loadRunData(given, opened);
    const config = { ...given, data: { ...given.data, maxLength: data.maxLength } };
    const { train } = config;
    const epochSteps = stepsPerEpoch(data.train.length, train);
    const totalSteps = train.steps ?? Math.ceil((train.epochs ?? 3) * epochSteps);
    const length = { totalSteps, stepsPerEpoch: epochSteps };
    const assembly = assemble(opened, config, { strategies, length, classes: data.classes });
    const { strategy, options, modules, budget, plan } = assembly;
    const devRows = elsewhere ? undefined : data.dev.length;
    const outline = { ...length, modules, budget, plan, seed: train.seed, devRows };
    const scheduler = strategy.scheduler?.(outline, options);
    const hashes = {
      configuration: configHash(config),
      'model file': await modelHash(opened.directory),
      data: data.hash,
    };
    const run = { ...assembly, config, data, totalSteps, stepsPerEpoch: epochSteps, scheduler, hashes };
    return { ...run, info: describeRun(run) };
  } catch (error) {
    opened.workspace.close();
    throw error;
  }
}

/** The plan of a run without running it: what `train --dry-run` prints. */
export async function planRun(config: RunConfig, strategies: StrategyRegistry): Promise<RunInfo> {
  const run = await prepareRun(config, strategies);
  await run.close();
  return run.info;
}

function describeRun(run: Omit<PreparedRun, 'info'>): RunInfo {
  const { config, directory, backbone, adapters, plan, budget, data } = run;
  const ranks = plan.initial.reduce((a, b) => a + b, 0);
  const heads = headParameters(run);
  return {
    model: {
      name: basename(directory.folder),
      path: config.model.path,
      file: relative(directory.folder, directory.file),
      backbone: String(
        (backbone.config.architectures as string[] | undefined)?.[0] ??
          backbone.config.model_type ??
          backbone.kind,
      ),
      opset: backbone.model.opsets.get('') ?? 0,
      parameters: backbone.parameters,
    },
    strategy: run.strategy.name,
    task: config.data.task,
    modules: adapters.modules.map((module, i) => ({
      name: module.name,
      in: module.in,
      out: module.out,
      rank: plan.initial[i]!,
      costOfOneRank: adapters.costOfRank(module),
    })),
    budget: {
      at: budget.at,
      target: budget.parameters,
      peak: { parameters: plan.peak, ranks },
      final: {
        parameters: plan.final,
        ranks: Math.round((ranks * plan.final) / Math.max(1, adapters.liveParameters())),
      },
      average: { parameters: plan.average, ranks },
      heads,
    },
    data: data.info,
    totalSteps: run.totalSteps,
    stepsPerEpoch: run.stepsPerEpoch,
    startStep: 0,
    batchSize: config.train.batchSize,
    accumulate: config.train.accumulate,
    maxLength: data.maxLength,
    learningRate: config.train.learningRate,
    schedule: config.train.schedule,
    warmupSteps: warmupSteps({ ...config.train, totalSteps: run.totalSteps }),
    evalEvery: config.train.evalEvery,
    seed: config.train.seed,
    device: config.runtime.device,
    compute: config.model.compute,
    threads: config.runtime.threads,
    output: config.output,
  };
}

/** Scalars of heads that train in full; the budget does not pay for them. */
export function headParameters({ adapted }: Pick<Assembly, 'adapted'>): number {
  return adapted.heads
    .flatMap((head) => head.parameters)
    .reduce((total, { spec }) => total + (spec.rows as number) * spec.width, 0);
}
