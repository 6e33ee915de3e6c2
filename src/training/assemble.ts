import { AdapterSet } from '../adapters/adapterSet.ts';
import { resolveBudget } from '../adapters/budget.ts';
import type { LinearModule, TargetModule } from '../adapters/module.ts';
import type { LoadedPeftAdapter } from '../adapters/peft.ts';
import { selectSaved, selectTargets } from '../adapters/selection.ts';
import { partsOfFused, refuseWhole } from '../adapters/splitFused.ts';
import type { AdapterStrategy, Budget, RankPlan, RunLength } from '../adapters/strategy.ts';
import { type RunConfig, strategyOptions } from '../config/schema.ts';
import { AloraError } from '../errors.ts';
import { adaptBackbone } from '../runtime/adaptBackbone.ts';
import type { AdaptedModel } from '../runtime/adaptedModel.ts';
import { AdaptedRuntime } from '../runtime/adaptedRuntime.ts';
import { type Backbone, linearModules, loadBackbone } from '../runtime/backbone.ts';
import { localModel } from '../runtime/hub.ts';
import { findModel, type ModelDirectory } from '../runtime/modelDirectory.ts';
import type { Device } from '../runtime/session.ts';
import { openWorkspace, type Workspace } from '../runtime/workspace.ts';
import { findTask } from '../tasks/index.ts';
import { adapterFor, loadFactors, modulesOfAdapter } from './adapterFiles.ts';

/** Strategies by the word in the run file. */
export type StrategyRegistry = Readonly<Record<string, AdapterStrategy<unknown>>>;

/** A model, its adapters and the sessions over both: what training, evaluation and scoring work with. */
export interface Assembly {
  readonly directory: ModelDirectory;
  readonly workspace: Workspace;
  readonly backbone: Backbone;
  readonly strategy: AdapterStrategy<unknown>;
  readonly options: unknown;
  /** The adapted modules, as adapters and strategies know them. */
  readonly modules: readonly LinearModule[];
  readonly budget: Budget;
  readonly plan: RankPlan;
  readonly adapted: AdaptedModel;
  readonly adapters: AdapterSet;
  readonly runtime: AdaptedRuntime;
  scaling(module: TargetModule): number;
  close(): Promise<void>;
}

export interface OpenedModel {
  readonly directory: ModelDirectory;
  readonly workspace: Workspace;
  readonly backbone: Backbone;
  readonly linear: readonly LinearModule[];
}

/** Which file, and the device that shall run it: default the CPU. */
export interface ModelChoice extends Pick<RunConfig['model'], 'path' | 'file'> {
  readonly device?: Device;
}

/** Locates, reads and prepares the model of a configuration. */
export function openModel(model: ModelChoice, workspace = openWorkspace()): OpenedModel {
  try {
    const directory = findModel(model.path, { file: model.file });
    const backbone = loadBackbone(directory, workspace, model.device);
    return { directory, workspace, backbone, linear: linearModules(backbone) };
  } catch (error) {
    workspace.close();
    throw error;
  }
}

/** The same, where the model may be a hub id that is downloaded first. */
export async function fetchModel(model: ModelChoice, workspace?: Workspace): Promise<OpenedModel> {
  return openModel({ ...model, path: await localModel(model.path, model.file) }, workspace);
}

export interface AssembleOptions {
  readonly strategies: StrategyRegistry;
  readonly length: RunLength;
  /** Number of classes of a new classifier, for an encoder without a head. */
  readonly classes?: number;
}

/** Adds the configured adapters to an opened model. */
export function assemble(opened: OpenedModel, config: RunConfig, options: AssembleOptions): Assembly {
  const { backbone, workspace, directory } = opened;
  const { splitFused } = config.model;
  const linear = splitFused ? partsOfFused(opened.linear, backbone.config) : opened.linear;
  const strategy = findStrategy(config, options.strategies);
  const own = strategyOptions(config.adapter);
  const { initFrom } = config.adapter;
  const start = initFrom === undefined ? undefined : adapterFor(initFrom, linear, backbone.config);
  const saved = selectSaved(linear, config.adapter.modulesToSave);
  const modules = start
    ? modulesOfAdapter(start, linear)
    : selectTargets(linear, config.model.targets, {
        modulesToSave: config.adapter.modulesToSave,
      });
  if (splitFused) refuseWhole(modules, backbone.config);
  const budget = start ? budgetOfAdapter(config, start, modules) : resolveBudget(modules, config.budget);
  const planned = strategy.plan(modules, budget, own, options.length);
  const plan = start
    ? { ...planned, initial: modules.map((module) => start.modules.get(module.name)!.rank) }
    : planned;
  const scalings = start && new Map([...start.modules].map(([name, weights]) => [name, weights.scale]));
  const classifier =
    backbone.kind === 'encoder' && options.classes !== undefined
      ? { classes: options.classes, pooling: poolingOf(config, backbone) }
      : undefined;

  const build = (dropout: boolean): AdaptedModel =>
    adaptBackbone(backbone, {
      strategy,
      options: own,
      targets: modules,
      saved,
      classifier,
      alpha: start ? undefined : config.adapter.alpha,
      budget,
      scalings,
      dropout,
    });
  const adapted = build(false);
  const trained = config.adapter.dropout > 0 ? build(true) : adapted;
  const heads = adapted.heads.map((head) => head.module);
  const adapters = new AdapterSet(
    adapted.modules,
    adapted.parameters,
    plan.initial,
    config.train.seed,
    heads,
  );
  for (const head of adapted.heads)
    for (const { spec, start: values } of head.parameters)
      if (values) adapters.parameter(head.module, spec.role).set(values);
  if (start) {
    refuseDropped(start, heads);
    loadFactors(adapters, start, adapted.heads);
  }
  const runtimeOptions = {
    ...config.runtime,
    recompute: config.train.recompute,
    compute: config.model.compute,
  };
  const runtime = new AdaptedRuntime(adapted, adapters, workspace, runtimeOptions, trained);
  const s = (module: TargetModule) =>
    adapted.scalings.get(module.name) ??
    scalings?.get(module.name) ??
    (config.adapter.alpha === undefined ? 1 : config.adapter.alpha / budget.rank);
  return {
    directory,
    workspace,
    backbone,
    strategy,
    options: own,
    modules: adapted.modules as readonly LinearModule[],
    budget,
    plan,
    adapted,
    adapters,
    runtime,
    scaling: s,
    async close() {
      await runtime.close();
      workspace.close();
    },
  };
}

function findStrategy(config: RunConfig, strategies: StrategyRegistry): AdapterStrategy<unknown> {
  const strategy = strategies[config.adapter.strategy];
  if (!strategy)
    throw new AloraError('config', 'CONFIG_UNKNOWN_STRATEGY', 'Unknown strategy', {
      where: 'adapter.strategy',
      got: config.adapter.strategy,
      allowed: Object.keys(strategies),
      fix: 'Register it: train(config, { strategies: { mine } }).',
    });
  return strategy;
}

/** Ranks and s come from the adapter; an alpha or a budget that says otherwise is refused. */
function budgetOfAdapter(
  config: RunConfig,
  start: LoadedPeftAdapter,
  modules: readonly TargetModule[],
): Budget {
  const parameters = modules.reduce((sum, module) => {
    return sum + start.modules.get(module.name)!.rank * (module.in + module.out);
  }, 0);
  const r = Number(start.config.r ?? start.config.init_r ?? 8);
  const refuse = (key: string, got: number, allowed: string) => {
    throw new AloraError(
      'config',
      'CONFIG_INIT_FROM',
      `${key} disagrees with the adapter that the run starts from`,
      {
        where: key,
        got,
        allowed,
        fix: `Remove ${key}: ranks and scale come from adapter.initFrom.`,
      },
    );
  };
  const { alpha } = config.adapter;
  if (alpha !== undefined) {
    const uneven = modules.find((module) => {
      const { scale, rank } = start.modules.get(module.name)!;
      return Math.abs(scale - alpha / (config.budget.rank ?? r)) > 1e-4 * scale && rank > 0;
    });
    if (uneven) refuse('adapter.alpha', alpha, `${start.config.lora_alpha}, as in the adapter`);
  }
  const asked =
    config.budget.parameters ??
    (config.budget.rank === undefined ? undefined : resolveBudget(modules, config.budget).parameters);
  if (asked !== undefined && Math.abs(asked - parameters) > 0.01 * parameters)
    refuse(
      config.budget.rank === undefined ? 'budget.parameters' : 'budget.rank',
      config.budget.rank ?? asked,
      `${parameters} parameters (rank ${r}), as in the adapter`,
    );
  return { parameters, rank: r, at: config.budget.at };
}

/** How a new classifier reads the encoder: as configured, else by what the file gives. */
export function poolingOf(config: RunConfig, backbone: Backbone): 'cls' | 'mean' | 'none' {
  const gives = backbone.output === 'sentence_embedding' ? 'sentence_embedding' : 'tokens';
  if (findTask(config.data.task).head === 'tag') {
    if (gives === 'tokens' && config.model.pooling === undefined) return 'none';
    throw new AloraError('config', 'CONFIG_POOLING', 'A class for every token needs every hidden state', {
      where: 'model.pooling',
      got: config.model.pooling ?? `a file that gives ${gives}`,
      allowed: 'an encoder that gives last_hidden_state, without model.pooling',
      fix: 'Leave model.pooling out, or use another file of the encoder.',
    });
  }
  const asked = config.model.pooling ?? (gives === 'tokens' ? 'mean' : 'sentence_embedding');
  if ((asked === 'sentence_embedding') !== (gives === 'sentence_embedding'))
    throw new AloraError(
      'config',
      'CONFIG_POOLING',
      'The encoder does not give what model.pooling asks for',
      {
        where: 'model.pooling',
        got: asked,
        allowed: gives === 'tokens' ? ['cls', 'mean'] : ['sentence_embedding'],
        fix: 'Leave model.pooling out to take what the file gives.',
      },
    );
  return asked === 'sentence_embedding' ? 'none' : asked;
}

/** Layers that the adapter saves in full start as they are there, or the run would begin from another model. */
function refuseDropped({ folder, saved }: LoadedPeftAdapter, heads: readonly TargetModule[]): void {
  const names = new Set([...saved.keys()].map((key) => key.replace(/\.(weight|bias)$/, '')));
  for (const { name } of heads) names.delete(name);
  if (names.size === 0) return;
  throw new AloraError(
    'config',
    'ADAPTER_SAVED_LAYER',
    'The adapter to start from holds a layer in full that the run does not train',
    {
      where: 'adapter.initFrom',
      got: [folder, ...names].filter(Boolean).join(', '),
      fix: `Set adapter.modulesToSave: [${[...names].join(', ')}].`,
    },
  );
}
