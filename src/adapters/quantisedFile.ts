import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeModel } from '../onnx/decode.ts';
import type { Graph, Model } from '../onnx/graph.ts';
import { graphsOf, refusePartial } from './mergePlan.ts';
import type { LinearModule, ModelConfig } from './module.ts';
import { packAdapter } from './packAdapter.ts';
import type { PeftAdapter } from './peft.ts';
import { hasHead, linearModulesOf } from './targets.ts';

/** A model file of quantised weights that holds the adapter. */
export interface AdaptedFile {
  readonly file: string;
  readonly model: Model;
  /** Modules of the adapter, heads included. */
  readonly modules: readonly string[];
  /** The adapter's entries that have found their place: modules, and tensors of modulesToSave. */
  readonly keys: readonly string[];
}

export interface Place {
  /** The graph, or the branch of an If, that the module stands in. */
  readonly graph: Graph;
  readonly module: LinearModule;
}

/** The linear layers of all graphs of a model. */
export function placesOf(model: Model, config: ModelConfig): Place[] {
  return graphsOf(model.graph).flatMap((graph) =>
    linearModulesOf(graph, config, hasHead(model.graph)).map((module) => ({ graph, module })),
  );
}

/** The adapter as the file packs its layers. */
export function packedFor(places: readonly Place[], adapter: PeftAdapter, config: ModelConfig): PeftAdapter {
  return packAdapter(
    adapter,
    places.map(({ module }) => module),
    config,
  );
}

/**
 * Reads a file in which modules of the adapter are quantised; undefined for others, whose weights can be patched (see
 * patchesOf). `touched` are the modules that the adapter changes. Errors: MODEL_MERGE_NO_PLACE for a part of them.
 */
export function openQuantised(
  root: string,
  file: string,
  config: ModelConfig,
  given: PeftAdapter,
): { model: Model; adapter: PeftAdapter; touched: LinearModule[] } | undefined {
  const path = join(root, file);
  const model = decodeModel(readFileSync(path), path);
  const places = placesOf(model, config);
  const adapter = packedFor(places, given, config);
  const modules = places.map(({ module }) => module);
  const touched = modules.filter(
    ({ name }) => adapter.modules.has(name) || adapter.saved.has(`${name}.weight`),
  );
  if (!touched.some(({ uses }) => uses.some(({ weight }) => weight.storage !== 'float'))) return undefined;
  refusePartial(file, config, adapter, modules);
  return { model, adapter, touched };
}
