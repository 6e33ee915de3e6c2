import { Builder } from '../onnx/builder.ts';
import type { Dim, Model, Node, Value } from '../onnx/graph.ts';
import { gatherRows } from './gatherRows.ts';
import { inferTypes } from './inferTypes.ts';
import { prune } from './prune.ts';

/**
 * Where only one position of a hidden state is read, as by a classifier that looks at the first token, computes the
 * layers below for that position alone, in place: of an encoder's last block, all but keys and values. Values are
 * those of before, up to rounding. Returns how many such readers changed.
 */
export function gatherPooled(model: Model): number {
  const { graph } = model;
  const pooled = graph.nodes.flatMap((node) => {
    const position = positionOf(node);
    const alone = !graph.outputs.includes(node.inputs[0]!);
    return position !== undefined && alone ? [{ node, position }] : [];
  });
  let changed = 0;
  for (const { node, position } of pooled) {
    const hidden = node.inputs[0]!;
    const [batch, length] = hidden.shape!;
    const make = new Builder(graph, '/pooled');
    const [size, positions] = [lengthOf(make, batch!), lengthOf(make, length!)];
    if (!size || !positions || length === 1) continue;
    const vector = { dtype: 'int64', shape: [batch!] } as const;
    const examples = make.op('Range', [make.int(0), size, make.int(1)], vector);
    const starts = make.op('Mul', [examples, positions], vector);
    const last = { dtype: 'int64', shape: [] } as const;
    const place = position < 0 ? make.op('Add', [positions, make.int(position)], last) : make.int(position);
    const { output, gathered } = gatherRows(model, hidden, make.op('Add', [starts, place], vector));
    // Gathered where it was: nothing below works position by position.
    if (gathered.includes(hidden)) continue;
    graph.takePlace(node.output, output);
    changed++;
  }
  prune(graph);
  if (changed > 0) inferTypes(model);
  return changed;
}

/** A length as a scalar, from an input that has it. */
function lengthOf(make: Builder, dim: Dim): Value | undefined {
  if (typeof dim === 'number') return make.int(dim);
  const input = dim === null ? undefined : make.graph.inputs.find((value) => value.shape?.includes(dim));
  if (!input) return undefined;
  const shape = make.op('Shape', [input], { dtype: 'int64', shape: [input.shape!.length] });
  const scalar = { attributes: { axis: 0 }, dtype: 'int64', shape: [] } as const;
  return make.op('Gather', [shape, make.int(input.shape!.indexOf(dim))], scalar);
}

/** Which position of a hidden state [batch, length, width], used by nobody else, a Gather picks. */
function positionOf(node: Node): number | undefined {
  const [hidden, index] = node.inputs;
  if (node.op !== 'Gather' || node.domain !== '' || node.int('axis', 0) !== 1) return undefined;
  if (hidden?.shape?.length !== 3 || hidden.users.size !== 1 || !hidden.producer) return undefined;
  const tensor = index?.initializer;
  return tensor && tensor.dims.length === 0 ? tensor.toNumbers()[0] : undefined;
}
