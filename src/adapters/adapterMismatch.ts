import { AloraError, nearest } from '../errors.ts';
import type { PeftAdapter } from './peft.ts';

type Known = Pick<PeftAdapter, 'folder' | 'baseModel'>;

const placeOf = ({ folder }: Known, module: string): string =>
  folder === undefined ? module : `${folder}, ${module}`;

export const rightModel = ({ baseModel }: Known): string =>
  `Use the model that the adapter was trained on${baseModel ? `: ${baseModel}` : ''}.`;

/** Refusal of an adapter with a module that the model does not have; `known`: those that it has. */
export function missingModule(adapter: Known, module: string, known: Iterable<string>): AloraError {
  return new AloraError(
    'model',
    'ADAPTER_MISMATCH',
    'The adapter belongs to another model: a module of it is missing',
    {
      where: adapter.folder,
      got: module,
      didYouMean: nearest(module, known),
      fix: rightModel(adapter),
    },
  );
}

/** Refusal of an adapter whose module has another shape than the model's, or a head of it another tensor. */
export function otherDimensions(
  adapter: Known,
  module: string,
  { got, allowed }: { readonly got: string; readonly allowed: string },
): AloraError {
  return new AloraError(
    'model',
    'ADAPTER_MISMATCH',
    'The adapter belongs to another model: a module has other dimensions',
    { where: placeOf(adapter, module), got, allowed, fix: rightModel(adapter) },
  );
}
