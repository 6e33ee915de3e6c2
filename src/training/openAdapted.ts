import { z } from 'zod';
import { missingModule } from '../adapters/adapterMismatch.ts';
import { AdapterSet } from '../adapters/adapterSet.ts';
import { injectGatedLowRank } from '../adapters/lowRank.ts';
import type { LinearModule, TargetModule } from '../adapters/module.ts';
import type { LoadedPeftAdapter } from '../adapters/peft.ts';
import { type AdapterStrategy, defineStrategy } from '../adapters/strategy.ts';
import { adaptBackbone } from '../runtime/adaptBackbone.ts';
import { AdaptedRuntime, type AdaptedRuntimeOptions } from '../runtime/adaptedRuntime.ts';
import type { TrainedHead } from '../runtime/trainedHead.ts';
import { adapterFor, loadFactors, modulesOfAdapter } from './adapterFiles.ts';
import type { OpenedModel } from './assemble.ts';

/** Any finished adapter, whatever trained it: gated factors beside each module. */
const finished: AdapterStrategy<Record<string, never>> = defineStrategy({
  name: 'finished',
  options: z.strictObject({}),
  plan: () => ({ initial: [], peak: 0, final: 0, average: 0 }),
  inject: (graph, module) => injectGatedLowRank(graph, module),
});

/** A model with a finished adapter, or as it is. */
export interface AdaptedInference {
  readonly runtime: AdaptedRuntime;
  readonly adapters: AdapterSet;
  readonly modules: readonly TargetModule[];
  readonly heads: readonly TrainedHead[];
  readonly adapter: LoadedPeftAdapter | undefined;
  readonly scalings: ReadonlyMap<string, number>;
}

export interface OpenAdaptedOptions extends AdaptedRuntimeOptions {
  /** Folder of an adapter in PEFT format. */
  readonly adapter?: string;
  /** A new classifier on an encoder without a head. */
  readonly classifier?: { readonly classes: number; readonly pooling: 'cls' | 'mean' | 'none' };
  readonly seed?: number;
}

/** Opens sessions over a model and one adapter of any strategy, PEFT's own included; or over the base model. */
export function openAdapted(opened: OpenedModel, options: OpenAdaptedOptions): AdaptedInference {
  const { backbone, workspace, linear } = opened;
  const adapter =
    options.adapter === undefined ? undefined : adapterFor(options.adapter, linear, backbone.config);
  const modules = adapter ? modulesOfAdapter(adapter, linear) : [];
  const saved = adapter ? savedModules(adapter, linear) : [];
  const scalings = new Map([...(adapter?.modules ?? [])].map(([name, { scale }]) => [name, scale]));
  const adapted = adaptBackbone(backbone, {
    strategy: finished,
    options: {},
    targets: modules,
    saved,
    classifier: options.classifier,
    budget: { parameters: 0, rank: 1, at: 'final' },
    scalings,
  });
  const ranks = modules.map((module) => adapter!.modules.get(module.name)!.rank);
  const heads = adapted.heads.map((head) => head.module);
  const adapters = new AdapterSet(adapted.modules, adapted.parameters, ranks, options.seed ?? 0, heads);
  for (const head of adapted.heads)
    for (const { spec, start } of head.parameters)
      if (start) adapters.parameter(head.module, spec.role).set(start);
  if (adapter) {
    const known = new Set(heads.map(({ name }) => name));
    const unplaced = [...adapter.saved.keys()].find((key) => !known.has(key.replace(/\.(weight|bias)$/, '')));
    if (unplaced) throw missingModule(adapter, unplaced, [...known, ...linear.map(({ name }) => name)]);
    loadFactors(adapters, adapter, adapted.heads);
  }
  const runtime = new AdaptedRuntime(adapted, adapters, workspace, options);
  return { runtime, adapters, modules: adapted.modules, heads: adapted.heads, adapter, scalings };
}

/** Layers of the file whose weights the adapter replaces (modules_to_save). */
function savedModules(adapter: LoadedPeftAdapter, linear: readonly LinearModule[]): LinearModule[] {
  return linear
    .filter((module) => adapter.saved.has(`${module.name}.weight`))
    .map((module, index) => ({ ...module, index }));
}
