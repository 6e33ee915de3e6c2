import { AdapterSet } from '../adapters/adapterSet.ts';
import { injectGatedLowRank } from '../adapters/lowRank.ts';
import { addBranches } from '../adapters/mergeBranch.ts';
import type { LinearModule } from '../adapters/module.ts';
import { type LoadedPeftAdapter, readPeft } from '../adapters/peft.ts';
import { openRewriter, parameterInput } from '../adapters/rewriter.ts';
import { findLinearModules } from '../adapters/targets.ts';
import { AloraError } from '../errors.ts';
import { readModel } from '../onnx/decode.ts';
import type { Model } from '../onnx/graph.ts';
import { inlineIf } from '../passes/inlineIf.ts';
import { widen } from '../passes/widen.ts';
import { type Decoder, sessionDecoder } from '../runtime/decoder.ts';
import { parameterFeeds } from '../runtime/feeds.ts';
import type { ModelDirectory } from '../runtime/modelDirectory.ts';
import { type Feeds, openSession, type RuntimeOptions } from '../runtime/session.ts';
import type { Workspace } from '../runtime/workspace.ts';
import { loadFactors, modulesOfAdapter } from '../training/adapterFiles.ts';

export interface OpenDecoder {
  readonly decoder: Decoder;
  close(): Promise<void>;
}

/**
 * Opens a decoder file for text generation. Without an adapter the file runs as it is; with one, its fused
 * operators and cache stay and the adapter's factors become inputs beside its linear layers.
 */
export async function openDecoder(
  directory: ModelDirectory,
  adapter: string | undefined,
  workspace: Workspace,
  runtime: RuntimeOptions,
): Promise<OpenDecoder> {
  const model = readModel(directory.file);
  // [batch, length, vocabulary]; a classifier gives [batch, classes].
  if (!model.graph.outputs.some(({ name, shape }) => name === 'logits' && (shape?.length ?? 3) === 3))
    throw new AloraError('model', 'MODEL_NOT_DECODER', 'The model does not write text', {
      where: directory.file,
      got: model.graph.outputs.map(({ name, shape }) => `${name} [${(shape ?? []).join(', ')}]`).join(', '),
      allowed: 'a decoder: logits [batch, length, vocabulary]',
      fix: 'Use a decoder such as GPT-2 or Llama; encoders are scored with `onnx-alora eval`.',
    });
  if (adapter === undefined) {
    const session = await openSession(directory.file, runtime);
    return { decoder: sessionDecoder(session), close: () => session.release() };
  }
  const constants = addAdapter(model, readPeft(adapter), directory);
  workspace.shareWeights(model.graph);
  const session = await openSession(workspace.write('decoder', model), runtime);
  return { decoder: sessionDecoder(session, constants), close: () => session.release() };
}

/** Adds a finished adapter to an inference graph; returns what feeds its inputs. */
function addAdapter(model: Model, adapter: LoadedPeftAdapter, directory: ModelDirectory): Feeds {
  inlineIf(model);
  if (model.graph.nodes.some((node) => node.op === 'If')) {
    // The branches on use_cache_branch (transformers.js v2) both run: each gets the adapter, as constants.
    addBranches(model, directory.file, directory.config, adapter);
    return {};
  }
  // Adapters are float32.
  widen(model);
  const modules = modulesOfAdapter(adapter, findLinearModules(model, directory.config));
  const scalings = new Map([...adapter.modules].map(([name, { scale }]) => [name, scale]));
  const sites = new Map(
    modules.map((module) => [
      module,
      module.uses.map(({ input, output, weight }) => ({ input, output, weight })),
    ]),
  );
  const session = openRewriter(model.graph, sites, {
    budget: { parameters: 0, rank: 1, at: 'final' },
    scalings,
  });
  for (const module of modules) session.injectAt(module, (rewriter) => injectGatedLowRank(rewriter, module));
  const ranks = modules.map((module: LinearModule) => adapter.modules.get(module.name)!.rank);
  const adapters = new AdapterSet(modules, session.parameters, ranks, 0);
  loadFactors(adapters, adapter, []);
  const inputs = new Set(adapters.slots.map((slot) => parameterInput(slot.module, slot.spec.role)));
  return parameterFeeds(adapters, inputs);
}
