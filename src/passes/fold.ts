import { Builder } from '../onnx/builder.ts';
import type { Dim, Graph, Model, Node, Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import { isNumeric, normalAxis } from './inference/rule.ts';
import { inferTypes, type Types } from './inferTypes.ts';
import { prune } from './prune.ts';

/**
 * Evaluates in place what does not depend on the inputs' contents, until nothing more can be: shape arithmetic,
 * integer and boolean constants, float scalars under exactly rounded operators; makes Constant nodes initializers;
 * drops operators that certainly change nothing; gives Reshape and Expand constant targets where their symbolic
 * targets allow it; reads lengths off the inputs, once each. Tensors of more than 1024 elements are never computed,
 * so weights stay as they are. Leaves every value typed (see inferTypes) and dead nodes pruned; outputs are bit for
 * bit those of the graph before.
 */
export function fold(model: Model): Types {
  const { graph } = model;
  constantNodes(graph);
  for (;;) {
    const types = inferTypes(model);
    const changed = [
      computed(graph, types),
      simplified(graph, (node) => same(node, types)),
      constantTargets(graph, types),
      lengthsOfInputs(graph, types),
      sharedLengths(graph, types),
    ];
    prune(graph);
    if (!changed.includes(true)) return types;
  }
}

/** Turns a node's output into a constant of the same name. */
function becomeConstant(graph: Graph, value: Value, tensor: Tensor): void {
  value.producer = null;
  value.initializer = tensor;
  value.dtype = tensor.dtype;
  value.shape = tensor.dims;
  graph.initializers.add(value);
}

function constantNodes(graph: Graph): void {
  const constants = graph.nodes.flatMap((node) => {
    const tensor = node.op === 'Constant' && node.domain === '' ? constantTensor(node) : undefined;
    return tensor ? [[node, tensor] as const] : [];
  });
  graph.remove(constants.map(([node]) => node));
  for (const [node, tensor] of constants) becomeConstant(graph, node.output, tensor);
}

function constantTensor(node: Node): Tensor | undefined {
  const ints = node.ints('value_ints');
  const floats = node.floats('value_floats');
  if (ints) return Tensor.int64(ints);
  if (floats) return Tensor.float32(floats);
  if (node.attributes.has('value_int')) return Tensor.int64([node.int('value_int', 0)], []);
  if (node.attributes.has('value_float')) return Tensor.float32([node.float('value_float', 0)], []);
  return node.tensor('value');
}

/** Replaces values whose elements are all known by constants. */
function computed(graph: Graph, types: Types): boolean {
  const known: [Value, Tensor][] = [];
  for (const node of graph.nodes)
    for (const value of node.outputs) {
      if (!value?.dtype || value.users.size === 0 || graph.outputs.includes(value)) continue;
      const items = types.items(value);
      if (items && isNumeric(items) && isNumeric(value.shape))
        known.push([value, Tensor.of(value.dtype, items, value.shape)]);
    }
  for (const [value, tensor] of known) {
    const { producer } = value;
    becomeConstant(graph, value, tensor);
    // The node keeps its other outputs.
    if (producer) producer.outputs[producer.outputs.indexOf(value)] = null;
  }
  graph.remove(graph.nodes.filter((node) => node.outputs.every((value) => value === null)));
  return known.length > 0;
}

/** Bypasses nodes whose output is one of their inputs. */
function simplified(graph: Graph, identical: (node: Node) => Value | undefined): boolean {
  let changed = false;
  for (const node of graph.nodes) {
    const value = node.outputs[0];
    if (!value || value.users.size === 0 || graph.outputs.includes(value)) continue;
    const source = identical(node);
    if (!source) continue;
    graph.replaceUses(value, source);
    changed = true;
  }
  return changed;
}

function sameShape(a: Value, b: Value): boolean {
  return (
    a.shape !== null &&
    a.shape.length === b.shape?.length &&
    a.shape.every((dim, axis) => dim !== null && dim === b.shape![axis])
  );
}

/** The only part of a Concat that has a length, as a cache that is empty has not. */
function nonEmpty(node: Node): Value | undefined {
  const parts = node.inputs.filter((value) => {
    const shape = value?.shape;
    return shape?.[normalAxis(node.int('axis', 0), shape.length)] !== 0;
  });
  return parts.length === 1 && parts[0]?.dtype === node.output.dtype ? parts[0] : undefined;
}

/** The input that this node returns unchanged, where that is certain. */
function same(node: Node, types: Types): Value | undefined {
  const input = node.inputs[0];
  if (!input || node.domain !== '') return undefined;
  const all = (value: Value | null | undefined, item: number) => {
    const items = value && types.items(value);
    return items !== undefined && items !== null && items.length > 0 && items.every((x) => x === item);
  };
  const unchanged = (value: Value | null | undefined) =>
    value && value.dtype === node.output.dtype && sameShape(value, node.output) ? value : undefined;
  switch (node.op) {
    case 'Identity':
      return input;
    case 'Dropout': {
      const training = node.inputs[2];
      const maskUsed = node.outputs[1] && node.outputs[1].users.size > 0;
      return !maskUsed && (!training || all(training, 0)) ? input : undefined;
    }
    case 'Cast':
      return input.dtype === node.output.dtype ? input : undefined;
    case 'Transpose':
      return node.ints('perm')?.every((axis, i) => axis === i) ? input : undefined;
    case 'Concat':
      return node.inputs.length === 1 ? input : nonEmpty(node);
    case 'Reshape':
    case 'Expand':
      return unchanged(input);
    case 'Slice': {
      const steps = node.inputs[4];
      return !steps || all(steps, 1) ? unchanged(input) : undefined;
    }
    case 'Mul':
      if (all(node.inputs[1], 1)) return unchanged(input);
      return all(input, 1) ? unchanged(node.inputs[1]) : undefined;
    case 'Div':
      return all(node.inputs[1], 1) ? unchanged(input) : undefined;
    case 'Where':
      if (all(input, 1)) return unchanged(node.inputs[1]);
      return all(input, 0) ? unchanged(node.inputs[2]) : undefined;
    default:
      return undefined;
  }
}

/**
 * Reshape and Expand targets computed from shapes become constants: 0 copies a length in Reshape, 1 keeps it in
 * Expand, and one length of a Reshape may be left to -1.
 */
function constantTargets(graph: Graph, types: Types): boolean {
  let changed = false;
  for (const node of graph.nodes) {
    const target = node.inputs[1];
    if (!target || target.initializer || node.domain !== '') continue;
    const items = node.op === 'Reshape' ? copied(node, types) : node.op === 'Expand' ? kept(node) : undefined;
    if (!items) continue;
    node.setInput(1, graph.constant(`${node.name || node.output.name}/target`, Tensor.int64(items)));
    node.attributes.delete('allowzero');
    changed = true;
  }
  return changed;
}

function copied(node: Node, types: Types): number[] | undefined {
  const items = types.items(node.inputs[1]!);
  const data = node.inputs[0]?.shape;
  if (!items || !data || (node.int('allowzero', 0) !== 0 && items.includes(0))) return undefined;
  const constants = items.map((item, axis) => {
    if (typeof item === 'number') return item;
    return item !== null && item === data[axis] ? 0 : -1;
  });
  const open = constants.filter((item) => item === -1).length;
  // -1 cannot be computed beside a length of 0.
  if (open > 1 || (open === 1 && constants.some((item, axis) => item === 0 && items[axis] === 0)))
    return undefined;
  return constants;
}

function kept(node: Node): number[] | undefined {
  const shape = node.output.shape;
  const data = node.inputs[0]?.shape;
  if (!shape || !data) return undefined;
  const skip = shape.length - data.length;
  const constants = shape.map((dim, axis) => {
    if (dim !== null && axis >= skip && dim === data[axis - skip]) return 1;
    return typeof dim === 'number' ? dim : null;
  });
  return constants.every((item) => item !== null) ? constants : undefined;
}

/**
 * Shapes of intermediate values are put together from shapes of inputs where those have all lengths in question:
 * then nothing but numbers depends on the intermediate values, and graphs may be cut between them.
 */
function lengthsOfInputs(graph: Graph, types: Types): boolean {
  const make = new Builder(graph, '/lengths');
  const owner = (dim: Dim) =>
    graph.inputs.find((value) => typeof dim === 'string' && value.shape?.includes(dim));
  const lengths = new Map<Dim, Value>();
  const lengthOf = (dim: Dim) => {
    if (typeof dim === 'number') return make.ints([dim]);
    let length = lengths.get(dim);
    if (!length) {
      const input = owner(dim)!;
      const axis = input.shape!.indexOf(dim);
      const shape = make.op('Shape', [input]);
      length = make.op('Slice', [shape, make.ints([axis]), make.ints([axis + 1]), make.ints([0])]);
      lengths.set(dim, length);
    }
    return length;
  };
  const shapes = graph.nodes.filter((node) => {
    if (node.op !== 'Shape' || node.output.users.size === 0 || graph.inputs.includes(node.inputs[0]!))
      return false;
    const items = types.items(node.output);
    return items?.length && items.every((dim) => typeof dim === 'number' || owner(dim));
  });
  for (const { output } of shapes) {
    const parts = types.items(output)!.map(lengthOf);
    const all = parts.length === 1 ? parts[0]! : make.op('Concat', parts, { attributes: { axis: 0 } });
    graph.replaceUses(output, all);
  }
  return shapes.length > 0;
}

/** Vectors of the same lengths, which exports compute anew in every layer, are computed once. */
function sharedLengths(graph: Graph, types: Types): boolean {
  const first = new Map<string, Value>();
  let changed = false;
  for (const value of graph.nodes.flatMap((node) => node.outputs)) {
    const items = value && types.items(value);
    if (!items || value.users.size === 0 || graph.outputs.includes(value) || items.includes(null)) continue;
    const key = `${value.dtype}[${value.shape}] ${items.join(', ')}`;
    const twin = first.get(key);
    if (!twin) first.set(key, value);
    else {
      graph.replaceUses(value, twin);
      changed = true;
    }
  }
  return changed;
}
