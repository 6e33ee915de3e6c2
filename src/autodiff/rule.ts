import { AloraError } from '../errors.ts';
import { describe, type Node, type Value } from '../onnx/graph.ts';
import type { Emitter } from './emitter.ts';

/** Writes the gradient of one input and returns it; null: it is zero. */
export type Thunk = () => Value | null;

/** What a gradient rule sees of the node that it differentiates. */
export interface GradientContext {
  readonly node: Node;
  /** Inputs; absent optional ones are missing or undefined. */
  readonly x: readonly (Value | undefined)[];
  /** The first output. */
  readonly y: Value;
  /** Gradient of the loss with respect to the first output, with its shape. */
  readonly dy: Value;
  /** Gradients of all outputs; null where no path leads from the output to the loss. */
  readonly dOutputs: readonly (Value | null)[];
  readonly e: Emitter;
  /** Whether gradients flow through a value and nobody asks for its own. */
  isInner(value: Value): boolean;
  /** Refuses this node: no gradient is known for this form of the operator. */
  refuse(reason: string): never;
}

/**
 * The gradient of one operator: for each input a thunk that writes its gradient, null for inputs that have
 * none (indices, shapes). Thunks of frozen inputs are never called, so what they need is never computed.
 */
export type Gradient = (context: GradientContext) => readonly (Thunk | null)[];

/** A thunk whose work is shared: the first caller writes it. */
export function once<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

/** The module path that a node's name or its exporter's metadata gives; undefined where neither does. */
export function moduleOf(node: Node): string | undefined {
  const scopes = node.metadata.get('pkg.torch.onnx.name_scopes');
  if (scopes) {
    const paths = [...scopes.matchAll(/'([^']*)'/g)].map((match) => match[1]!);
    const module = paths
      .slice(0, -1)
      .filter((path) => path !== '')
      .at(-1);
    if (module) return module;
  }
  const parts = node.name.split('/').filter((part) => part !== '');
  return node.name.startsWith('/') && parts.length > 1 ? parts.slice(0, -1).join('.') : undefined;
}

/** The error of an operator without a gradient, naming operator, node and module. */
export function noGradient(node: Node, reason: string): AloraError {
  const module = moduleOf(node);
  return new AloraError('model', 'MODEL_NO_GRADIENT', `No gradient for ${describe(node)}: ${reason}`, {
    where: module ? `module ${module}` : `node ${node.name || describe(node)}`,
    fix: 'Adapt only modules whose path to the loss avoids this operator, or export the model without it.',
  });
}
