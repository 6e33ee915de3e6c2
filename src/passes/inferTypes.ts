import type { Dim, Graph, Model, Node, Value } from '../onnx/graph.ts';
import { ruleFor } from './inference/registry.ts';
import { type Inferred, isNumeric, type Scope, tensorItems } from './inference/rule.ts';
import { canonical } from './symbolic.ts';

/** What inference learned beyond the types that it wrote on the values. */
export interface Types {
  /** Elements of small tensors (shapes, indices, scalars) as numbers or lengths; null for elements not known. */
  items(value: Value): readonly Dim[] | undefined;
  /** Types the outputs of a node that was added since, whose inputs are typed. */
  extend(node: Node): void;
}

/**
 * Writes dtype and shape on every value, in place, from the graph's inputs and constants: dims are numbers,
 * canonical symbolic expressions of the inputs' dims ('past_sequence_length + sequence_length', see symbolic.ts),
 * or null where nothing is certain. Lengths computed at run time from Shape are followed element by element, so
 * Reshape, Expand and Slice get exact targets. Sorts the nodes. What an operator without a rule returns keeps the
 * type that the file declares.
 *
 * Two assumptions, both of which hold wherever the model runs at all: dims of one name are equal, and a slice of
 * a constant table at a symbolic position stays inside the table.
 */
export function inferTypes(model: Model): Types {
  const inference = new Inference();
  inference.graph(model.graph);
  return { items: (value) => inference.items(value), extend: (node) => inference.node(node) };
}

class Inference implements Scope {
  private readonly known = new Map<Value, readonly Dim[] | undefined>();

  graph(graph: Graph): void {
    graph.sort();
    for (const input of graph.inputs) input.shape = input.shape?.map(canonical) ?? null;
    for (const constant of graph.initializers) {
      constant.dtype = constant.initializer!.dtype;
      constant.shape = constant.initializer!.dims;
    }
    for (const node of graph.nodes) this.node(node);
  }

  items(value: Value | null | undefined): readonly Dim[] | undefined {
    if (!value) return undefined;
    if (!this.known.has(value) && value.initializer) this.known.set(value, tensorItems(value.initializer));
    return this.known.get(value);
  }

  outputsOf(node: Node, attribute: string): readonly Inferred[] {
    const branch = node.graph(attribute);
    if (!branch) return [];
    this.graph(branch);
    return branch.outputs.map(({ dtype, shape }) => ({ dtype, shape }));
  }

  node(node: Node): void {
    const inferred = ruleFor(node)?.(node, this);
    node.outputs.forEach((value, i) => {
      const type = inferred?.[i];
      if (!value) return;
      if (!type) {
        value.shape = value.shape?.map(canonical) ?? null;
        return;
      }
      value.dtype = type.dtype ?? value.dtype;
      value.shape = merge(type.shape?.map(canonical) ?? null, value.shape);
      if (type.items && isNumeric(value.shape)) this.known.set(value, type.items);
    });
  }
}

/** The inferred shape, with numbers that the file declares where inference knows nothing. */
function merge(inferred: readonly Dim[] | null, declared: readonly Dim[] | null): readonly Dim[] | null {
  if (!inferred) return declared?.map(canonical) ?? null;
  if (declared?.length !== inferred.length) return inferred;
  return inferred.map((dim, axis) => {
    const other = declared[axis]!;
    return dim === null && typeof other === 'number' ? other : dim;
  });
}
