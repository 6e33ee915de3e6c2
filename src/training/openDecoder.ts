import { missingModule } from '../adapters/adapterMismatch.ts';
import { AdapterSet } from '../adapters/adapterSet.ts';
import { injectGatedLowRank } from '../adapters/lowRank.ts';
import { addBranches } from '../adapters/mergeBranch.ts';
import type { LinearModule } from '../adapters/module.ts';
import { packAdapter } from '../adapters/packAdapter.ts';
import { fusedNames } from '../adapters/packing.ts';
import { type LoadedPeftAdapter, readPeft } from '../adapters/peft.ts';
import { openRewriter, parameterInput } from '../adapters/rewriter.ts';
import { findLinearModules } from '../adapters/targets.ts';
import { AloraError } from '../errors.ts';
import { readModel } from '../onnx/decode.ts';
import type { Model } from '../onnx/graph.ts';
import { inlineIf } from '../passes/inlineIf.ts';
import { readsEncoder } from '../passes/joinEncoder.ts';
import { separateProjections } from '../passes/lower.ts';
import { widen } from '../passes/widen.ts';
import { encoderFile } from '../runtime/backbone.ts';
import { type Decoder, sessionDecoder } from '../runtime/decoder.ts';
import { type Recordings, sessionEncoder, sessionHearing } from '../runtime/encoderDecoder.ts';
import { parameterFeeds } from '../runtime/feeds.ts';
import { generationConfig, type ModelDirectory } from '../runtime/modelDirectory.ts';
import { worthPacking } from '../runtime/prepacking.ts';
import { seq2SeqTokens, speechBegins } from '../runtime/seq2seq.ts';
import { type Feeds, openSessions, type RuntimeOptions } from '../runtime/session.ts';
import { endTokens } from '../runtime/textGeneration.ts';
import type { Workspace } from '../runtime/workspace.ts';
import { loadFactors, modulesOfAdapter } from './adapterFiles.ts';

export interface OpenDecoder {
  readonly decoder: Decoder;
  close(): Promise<void>;
}

/**
 * Opens a decoder file for text generation, that of an encoder-decoder together with its encoder's. Without an adapter
 * the files run as they are; with one, their fused operators and cache stay and the adapter's factors become inputs
 * beside the linear layers. `hear`: features of recordings, for a model that reads sound; a prompt is then the number of
 * a recording.
 */
export async function openDecoder(
  directory: ModelDirectory,
  adapter: string | undefined,
  workspace: Workspace,
  runtime: RuntimeOptions,
  hear?: Recordings['features'],
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
  const generation = generationConfig(directory.folder);
  const tokens = readsEncoder(model) ? seq2SeqTokens(directory.config, generation) : undefined;
  const halves: Half[] = [
    { name: 'decoder', file: directory.file, model },
    ...(tokens ? [halfOf('encoder', encoderFile(directory))] : []),
  ];
  const loaded = adapter === undefined ? undefined : readPeft(adapter);
  const adapted = loaded && addAdapter(halves, loaded, directory);
  const [session, encoder] = await openSessions(
    halves.map(({ name, file, model }) => {
      if (adapted) workspace.shareWeights(model.graph);
      const path = adapted ? workspace.write(name, model) : file;
      return { path, prepack: worthPacking(model.graph, 'tokens') };
    }),
    runtime,
  );
  const side =
    encoder && hear
      ? sessionHearing(
          encoder,
          { begins: speechBegins(directory.config, generation), features: hear },
          adapted?.[1],
        )
      : encoder && tokens && sessionEncoder(encoder, tokens, adapted?.[1]);
  return {
    decoder: sessionDecoder(session!, adapted?.[0], side),
    async close() {
      await session!.release();
      await encoder?.release();
    },
  };
}

/** A file of the model: all of it, or one half of an encoder-decoder. */
interface Half {
  readonly name: 'decoder' | 'encoder';
  readonly file: string;
  readonly model: Model;
}

function halfOf(name: Half['name'], file: string): Half {
  return { name, file, model: readModel(file) };
}

/** Adds a finished adapter to inference graphs; returns what feeds the inputs of each. Errors: ADAPTER_MISMATCH. */
function addAdapter(
  halves: readonly Half[],
  adapter: LoadedPeftAdapter,
  { config }: ModelDirectory,
): Feeds[] {
  const placed = new Set<string>();
  const saved = new Set<string>();
  const layers: LinearModule[] = [];
  const feeds = halves.map(({ model, file }) => {
    inlineIf(model);
    if (model.graph.nodes.some((node) => node.op === 'If')) {
      // The branches on use_cache_branch (transformers.js v2) both run: each gets the adapter, as constants.
      const added = addBranches(model, file, config, adapter);
      for (const name of added.modules) placed.add(name);
      for (const key of added.keys) saved.add(key);
      return {};
    }
    // Adapters are float32.
    widen(model);
    separateProjections(model);
    const linear = findLinearModules(model, config);
    layers.push(...linear);
    const own = new Set(linear.map(({ name }) => name));
    const packed = packAdapter(adapter, linear, config);
    const modules = new Map([...packed.modules].filter(([name]) => own.has(name)));
    for (const name of modules.keys()) placed.add(name);
    const feeds = addFactors(model, { ...adapter, modules }, linear);
    // Layers that were trained in full take the place of the file's.
    for (const key of addBranches(model, file, config, { ...adapter, modules: new Map() }).keys)
      saved.add(key);
    return feeds;
  });
  const isPlaced = (name: string) => [name, ...fusedNames(name)].some((candidate) => placed.has(candidate));
  const missing = [...adapter.modules].filter(([name, { rank }]) => rank > 0 && !isPlaced(name));
  const unplaced = [...adapter.saved.keys()].find((key) => !saved.has(key));
  if (unplaced)
    throw missingModule(
      adapter,
      unplaced,
      layers.map(({ name }) => name),
    );
  // Names the first of them, and what it may be instead.
  modulesOfAdapter({ ...adapter, modules: new Map(missing) }, layers);
  return feeds;
}

/** Puts the factors beside the layers of one graph as inputs; returns what feeds them. */
function addFactors(model: Model, adapter: LoadedPeftAdapter, linear: readonly LinearModule[]): Feeds {
  const modules = modulesOfAdapter(adapter, linear);
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

/** End tokens of generation_config.json, config.json, or the tokenizer, in this order. */
export function endsOf({ folder, config }: ModelDirectory, eosId: number | undefined): number[] {
  const ends = endTokens(generationConfig(folder), config);
  return ends.length > 0 || eosId === undefined ? ends : [eosId];
}
