import { mkdirSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { readPeft } from '../adapters/peft.ts';
import { writeSafetensors } from '../adapters/safetensors.ts';
import { fillNewFolder, makeFolder, writeFileAtomic } from '../atomicFiles.ts';
import { readModel } from '../onnx/decode.ts';
import type { Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import { localModel } from '../runtime/hub.ts';
import { findModel } from '../runtime/modelDirectory.ts';
import { openWorkspace } from '../runtime/workspace.ts';
import type { ExportResult } from '../training/exportGraph.ts';
import { fitAdapter, stackedFeeds } from './servedAdapter.ts';
import { adaptersDim, makeAdapterReady, type SiteTargets } from './servingGraph.ts';

/** What `exportInferenceGraph` writes, and where. */
export interface ExportServingOptions {
  readonly model: { readonly path: string; readonly file?: string; readonly targets: SiteTargets };
  /** New folder. */
  readonly out: string;
  /** Adapter folders in PEFT format, to be written as the graph takes them. */
  readonly adapters?: readonly string[];
}

/**
 * Writes the adapter-ready inference graph as plain ONNX with a manifest, and adapters as files of its inputs: any
 * ONNX Runtime, in any language, serves one base with many adapters by feeding other tensors.
 */
export async function exportServing(options: ExportServingOptions): Promise<ExportResult> {
  return fillNewFolder(options.out, () => writeServing(options));
}

async function writeServing({
  model: source,
  out,
  adapters = [],
}: ExportServingOptions): Promise<ExportResult> {
  const directory = findModel(await localModel(source.path, source.file), {
    file: source.file,
    purpose: 'generation',
  });
  const model = readModel(directory.file);
  const sites = makeAdapterReady([model], directory.config, source.targets);
  const fitted = adapters.map((folder) => ({
    folder,
    adapter: fitAdapter(readPeft(folder), sites, directory.config),
  }));
  makeFolder(out);
  const workspace = openWorkspace({ folder: out });
  try {
    workspace.shareWeights(model.graph);
    workspace.write('model', model);
    const names = distinctNames(adapters);
    if (fitted.length > 0) mkdirSync(join(out, 'adapters'));
    fitted.forEach(({ adapter }, i) => {
      const feeds = Object.entries(stackedFeeds(sites, [adapter]));
      const tensors = feeds.map(
        ([name, { data, dims }]) => [name, Tensor.float32(data as Float32Array, [...dims])] as const,
      );
      writeSafetensors(join(out, 'adapters', `${names[i]}.safetensors`), new Map(tensors));
    });
    const factors = new Set(sites.flatMap(({ a, b, bias }) => [a, b, bias]));
    const manifest = {
      format: 1,
      graph: 'model.onnx',
      opset: model.opsets.get(''),
      // Any row of a batch may have its own adapter: then the first dimension of all factors is the batch size.
      adapters: {
        dimension: adaptersDim,
        oneForEachRow: sites.every(({ mixes }) => mixes),
        meaning:
          '1: one adapter for the whole batch; the batch size: one for each row, padded with zeros to the largest rank',
        none: 'rank 0 at every module',
        files: names.map((name) => `adapters/${name}.safetensors`),
      },
      modules: sites.map(({ module, a, b, bias }) => ({
        name: module.name,
        in: module.in,
        out: module.out,
        lora_A: { input: a, shape: [adaptersDim, module.in, 'rank'], meaning: "PEFT's lora_A, transposed" },
        lora_B: {
          input: b,
          shape: [adaptersDim, 'rank', module.out],
          meaning: "PEFT's lora_B, transposed, times alpha / r",
        },
        ...(bias === undefined
          ? {}
          : {
              bias: {
                input: bias,
                shape: [adaptersDim, 1, module.out],
                meaning: 'added to the output; zeros for none',
              },
            }),
      })),
      inputs: model.graph.inputs
        .filter(({ name, initializer }) => !initializer && !factors.has(name))
        .map(describeValue),
      outputs: model.graph.outputs.map(describeValue),
    };
    writeFileAtomic(join(out, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
    return { folder: out, files: filesOf(out) };
  } finally {
    workspace.close();
  }
}

const describeValue = ({ name, dtype, shape }: Value) => ({ name, dtype, shape });

function filesOf(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(folder.length + 1))
    .sort();
}

/** The folders' own names; a run folder's `adapter` and `best` take the run's name. Equal ones are counted. */
function distinctNames(folders: readonly string[]): string[] {
  const taken = new Set<string>();
  return folders.map((folder) => {
    const own = basename(folder);
    const name = /^(adapter|best)$/.test(own) ? basename(join(folder, '..')) || own : own;
    let candidate = name;
    for (let i = 2; taken.has(candidate); i++) candidate = `${name}-${i}`;
    taken.add(candidate);
    return candidate;
  });
}
