import type { LinearModule } from '../adapters/module.ts';
import { partsOfFused, separateParts } from '../adapters/splitFused.ts';
import { cloneModel } from '../onnx/clone.ts';
import type { Model } from '../onnx/graph.ts';
import { type AdaptedModel, type AdaptOptions, adapt } from './adaptedModel.ts';
import { type Backbone, linearModules } from './backbone.ts';

/**
 * Adds adapters, heads and the loss to copies of a backbone's graphs: the one that gradients are made from and, where
 * there is one, the fused forward graph. Targets and saved layers may be those of any graph of the backbone: the
 * copies' own are found by their names.
 */
export function adaptBackbone<Options>(backbone: Backbone, options: AdaptOptions<Options>): AdaptedModel {
  const adapted = adaptCopy(backbone, backbone.model, options)!;
  // Dropout is for training steps alone.
  if (!backbone.forward || options.dropout) return adapted;
  const forward = adaptCopy(backbone, backbone.forward, options);
  // A bias within a fused operator cannot be fed.
  const feeds = forward?.heads.every(
    ({ parameters }, i) => parameters.length === adapted.heads[i]!.parameters.length,
  );
  return forward && feeds ? { ...adapted, forward: forward.model } : adapted;
}

/** undefined where a layer that shall train in full has no float weight in this graph. */
function adaptCopy<Options>(
  backbone: Backbone,
  original: Model,
  options: AdaptOptions<Options>,
): AdaptedModel | undefined {
  const model = cloneModel(original);
  const found = linearModules({ model, config: backbone.config });
  const wanted = new Set(options.targets.flatMap(({ name, part }) => (part ? [name] : [])));
  const split = wanted.size > 0 ? partsOfFused(found, backbone.config) : found;
  const own = new Map(separateParts(model.graph, split, wanted).map((module) => [module.name, module]));
  const twin = ({ name, index }: LinearModule): LinearModule => ({ ...own.get(name)!, index });
  const saved = options.saved?.map(twin);
  if (original !== backbone.model && saved?.some(({ weight }) => weight.storage !== 'float'))
    return undefined;
  return adapt({ ...backbone, model }, { ...options, targets: options.targets.map(twin), saved });
}
