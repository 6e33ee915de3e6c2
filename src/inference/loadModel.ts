import { cloneModel } from '../onnx/clone.ts';
import { readModel } from '../onnx/decode.ts';
import type { Model } from '../onnx/graph.ts';
import { emptyCache as emptyPast } from '../passes/emptyCache.ts';
import { readsEncoder } from '../passes/joinEncoder.ts';
import { encoderFile } from '../runtime/backbone.ts';
import { Feeder } from '../runtime/feeds.ts';
import { localModel } from '../runtime/hub.ts';
import { findModel } from '../runtime/modelDirectory.ts';
import { worthPacking } from '../runtime/prepacking.ts';
import { openSessions } from '../runtime/session.ts';
import { openWorkspace } from '../runtime/workspace.ts';
import { loadTokenizer } from '../tasks/tokenizer.ts';
import type { LoadModelOptions, ServedModel } from './requests.ts';
import { cacheInput, Served } from './servedModel.ts';
import { makeAdapterReady } from './servingGraph.ts';

/**
 * Opens a model so that adapters are inputs of its graph: one session serves all of them, per request and per example
 * of a batch, and no switch rebuilds anything. Fused and quantised operators and the cache run as exported.
 */
export async function loadModel(path: string, options: LoadModelOptions = {}): Promise<ServedModel> {
  const directory = findModel(await localModel(path, options.file), {
    file: options.file,
    purpose: 'generation',
  });
  const tokenizer = await loadTokenizer(directory.folder);
  const model = readModel(directory.file);
  const encoder = readsEncoder(model) ? readModel(encoderFile(directory)) : undefined;
  // The branch with a cache asks for keys and values of the encoder's output, which only the other one makes: the
  // first token is one graph's, all later ones are another's.
  const later = encoder && model.graph.findInput('use_cache_branch') ? cloneModel(model) : undefined;
  if (encoder) emptyPast(model, { keepPresent: later !== undefined });
  const graphs = [model, encoder, later].filter((graph) => graph !== undefined);
  const sites = makeAdapterReady(graphs, directory.config, options.targets ?? 'all-linear');
  const workspace = openWorkspace();
  try {
    const runtime = { device: options.device ?? 'cpu', threads: options.threads ?? 0 } as const;
    workspace.shareWeights(...graphs.map(({ graph }) => graph));
    const file = (name: string, part: Model) => ({
      path: workspace.write(name, part),
      prepack: worthPacking(part.graph, 'tokens'),
    });
    const given = [
      ...sites.flatMap(({ a, b, bias }) => (bias === undefined ? [a, b] : [a, b, bias])),
      ...model.graph.inputs
        .map(({ name }) => name)
        .filter((name) => cacheInput.test(name) || encoderInput.test(name)),
    ];
    const feeder = new Feeder(model.graph, { slots: [] }, given);
    const pooling = options.pooling ?? 'mean';
    const files = graphs.map((graph, i) => file(['serving', 'encoder', 'later'][i]!, graph));
    const [session, ...others] = await openSessions(files, runtime);
    const [encoding, following] = others;
    return new Served(
      directory,
      tokenizer,
      workspace,
      session!,
      sites,
      feeder,
      pooling,
      encoding && { session: encoding, later: following },
    );
  } catch (error) {
    workspace.close();
    throw error;
  }
}

const encoderInput = /^encoder_/;
