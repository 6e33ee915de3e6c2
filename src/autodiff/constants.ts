import type { Node, Value } from '../onnx/graph.ts';

/** Small constants that rules look into (exponents, axes, pads) have no more elements than this. */
const largestConstant = 1024;

/** Elements of a small constant: an initializer, or the output of a Constant node. */
export function constantOf(value: Value | null | undefined): number[] | undefined {
  if (!value) return undefined;
  if (value.initializer)
    return value.initializer.size <= largestConstant ? value.initializer.toNumbers() : undefined;
  const node = value.producer;
  if (node?.op !== 'Constant' || node.domain !== '') return undefined;
  const attribute = [...node.attributes.values()][0];
  switch (attribute?.type) {
    case 'tensor':
      return attribute.value.size <= largestConstant ? attribute.value.toNumbers() : undefined;
    case 'int':
    case 'float':
      return [attribute.value];
    case 'ints':
    case 'floats':
      return [...attribute.value];
    default:
      return undefined;
  }
}

/** The permutation of a Transpose node over values of the given rank. */
export function permutation(node: Node, rank: number): readonly number[] {
  return node.ints('perm') ?? Array.from({ length: rank }, (_, i) => rank - 1 - i);
}
