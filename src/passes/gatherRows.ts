import { AloraError } from '../errors.ts';
import { Builder } from '../onnx/builder.ts';
import { type Dim, describe, type Graph, type Model, type Node, type Value } from '../onnx/graph.ts';
import { isNumeric } from './inference/rule.ts';
import { inferTypes } from './inferTypes.ts';
import { type LeadOf, type RowPlan, rowRuleFor } from './rowRules.ts';
import { product } from './symbolic.ts';

export interface RowSelection {
  /** The output at the chosen positions: [rows, ...]. */
  readonly output: Value;
  /** Where the rows are gathered: values that are needed at every position, or that mix positions. */
  readonly gathered: readonly Value[];
}

/**
 * Computes an output at chosen positions only: adds in place, beside the nodes that are there, copies that compute
 * `output` [batch, length, ...] at the flattened positions b * length + s that `rows` holds (int64 [n], in any
 * order, repeats allowed, none allowed). The rows are gathered as early as no other node needs the full tensors:
 * of a decoder whose logits nobody else reads, the last block's output projection, its feed-forward layers, the
 * final norm and the head run on rows only. Values are exact; `prune` then drops what nobody reads any more.
 * Parameters that nodes read (adapters) are shared by all positions, or by those of one example where they are
 * [batch, 1, ...]. For an output [batch, classes] the rows are examples.
 *
 * Errors: MODEL_ROWS (model) when the output's rank is not known or below 2.
 */
export function gatherRows(model: Model, output: Value, rows: Value): RowSelection {
  inferTypes(model);
  const { shape } = output;
  if (!shape || shape.length < 2)
    throw new AloraError('model', 'MODEL_ROWS', `Rows of '${output.name}' cannot be chosen`, {
      where: output.producer ? describe(output.producer) : output.name,
      got: shape ? `[${shape.join(', ')}]` : 'unknown shape',
      allowed: 'an output [batch, length, ...] or [batch, ...]',
      fix: 'Export the model with dynamic axes named batch_size and sequence_length.',
    });
  return new RowGatherer(model.graph, shape.slice(0, shape.length >= 3 ? 2 : 1), rows).gather(output);
}

class RowGatherer {
  private readonly make: Builder;
  private readonly positions: Dim;
  private readonly chosen = new Map<Value, Value>();
  private readonly gathered: Value[] = [];
  private exampleOfRow?: Value;
  private placeOfRow?: Value;

  constructor(
    private readonly graph: Graph,
    private readonly lead: readonly Dim[],
    private readonly rows: Value,
  ) {
    this.make = new Builder(graph, '/rows');
    this.positions = product(lead);
  }

  gather(output: Value): RowSelection {
    // Where the positions have no names, nothing tells them from other lengths: the output itself is gathered.
    const plans = this.lead.includes(null) ? new Map<Node, RowPlan>() : this.plan(output);
    for (const node of this.graph.nodes.slice()) {
      const plan = plans.get(node);
      if (plan) this.emit(node, plan);
    }
    return { output: this.rowsOf(output), gathered: this.gathered };
  }

  private readonly leadOf: LeadOf = (value) => {
    const shape = value?.shape;
    if (!shape) return undefined;
    if (
      shape.length >= this.lead.length &&
      this.lead.every((dim, axis) => dim !== null && dim === shape[axis])
    )
      return this.lead.length;
    return shape[0] !== null && shape[0] === this.positions ? 1 : undefined;
  };

  /** Nodes to compute on rows: those that nothing else needs at all positions. Users come before producers. */
  private plan(output: Value): Map<Node, RowPlan> {
    const plans = new Map<Node, RowPlan>();
    const gone = new Set<Node>();
    for (const node of this.graph.nodes.toReversed()) {
      let wanted = node.outputs.includes(output);
      const neededWhole = node.outputs.some((value) => {
        if (!value || value === output) return false;
        if (this.graph.outputs.includes(value)) return true;
        return [...value.users].some((user) => {
          if (gone.has(user)) return false;
          const plan = plans.get(user);
          if (!plan) return true;
          const roles = user.inputs.flatMap((input, i) => (input === value ? [plan.roles[i]!] : []));
          if (roles.includes('rows')) wanted = true;
          return !roles.every((role) => role === 'rows' || role === 'unused');
        });
      });
      if (neededWhole) continue;
      const plan = wanted ? rowRuleFor(node)?.(node, this.leadOf) : undefined;
      if (plan) plans.set(node, plan);
      else if (!wanted) gone.add(node);
    }
    return plans;
  }

  private emit(node: Node, plan: RowPlan): void {
    const inputs = node.inputs.map((value, i) => {
      switch (value && plan.roles[i]) {
        case 'rows':
          return this.rowsOf(value!);
        case 'example':
          return this.pick(value!, 1, this.examples());
        case 'position':
          return this.pick(value!, 0, this.places());
        case 'kept':
          return value;
        default:
          return null;
      }
    });
    const outputs = plan.emit(this.make, inputs);
    node.outputs.forEach((value, i) => {
      const rows = outputs[i];
      if (!value || !rows) return;
      rows.dtype = value.dtype;
      rows.shape = [...this.rows.shape!, ...(value.shape?.slice(this.leadOf(value)) ?? [])];
      this.chosen.set(value, rows);
    });
  }

  /** The value at the chosen positions: computed there, or gathered from all. */
  private rowsOf(value: Value): Value {
    let rows = this.chosen.get(value);
    if (!rows) {
      const lead = this.leadOf(value) ?? this.lead.length;
      const rest = value.shape!.slice(lead);
      const options = { dtype: value.dtype, shape: [...this.rows.shape!, ...rest] };
      rows = this.make.op('Gather', [this.flat(value, lead, rest), this.rows], {
        ...options,
        attributes: { axis: 0 },
      });
      this.chosen.set(value, rows);
      this.gathered.push(value);
    }
    return rows;
  }

  /** [batch, length, ...] as [batch*length, ...], whatever the lengths of the rest, 0 included. */
  private flat(value: Value, lead: number, rest: readonly Dim[]): Value {
    if (lead === 1) return value;
    const options = { dtype: value.dtype, shape: [this.positions, ...rest] };
    if (rest.length === 1)
      return this.make.op('Flatten', [value], { ...options, attributes: { axis: lead } });
    if (isNumeric(rest)) return this.make.op('Reshape', [value, this.make.ints([-1, ...rest])], options);
    const tail = this.make.op('Shape', [value], { attributes: { start: lead } });
    const target = this.make.op('Concat', [this.make.ints([-1]), tail], { attributes: { axis: 0 } });
    return this.make.op('Reshape', [value, target], options);
  }

  /** Rows of a value that one of the two position axes does not touch. */
  private pick(value: Value, idleAxis: number, indices: Value): Value {
    const idle = this.leadOfIdle(value, idleAxis);
    const vectors = idle ? this.make.op('Squeeze', [value, this.make.ints([idleAxis])]) : value;
    return this.make.op('Gather', [vectors, indices], { attributes: { axis: 0 }, dtype: value.dtype });
  }

  /** Whether the idle axis is there, as 1, or left out as broadcasting allows for a leading one. */
  private leadOfIdle(value: Value, idleAxis: number): boolean {
    return value.shape![idleAxis] === 1 && value.shape![1 - idleAxis] === this.lead[1 - idleAxis];
  }

  private examples(): Value {
    this.exampleOfRow ??= this.make.op('Div', [this.rows, this.length()]);
    return this.exampleOfRow;
  }

  private places(): Value {
    this.placeOfRow ??= this.make.op('Sub', [
      this.rows,
      this.make.op('Mul', [this.examples(), this.length()]),
    ]);
    return this.placeOfRow;
  }

  /** Positions in an example, from an input that has them. */
  private length(): Value {
    const length = this.lead[1]!;
    if (typeof length === 'number') return this.make.int(length);
    const input = this.graph.inputs.find((value) => value.shape?.includes(length));
    if (!input)
      throw new AloraError('model', 'MODEL_ROWS', `No input of the model has the length '${length}'`, {
        fix: 'Export the model with input_ids [batch_size, sequence_length].',
      });
    const axis = input.shape!.indexOf(length);
    return this.make.op('Gather', [this.make.op('Shape', [input]), this.make.int(axis)], {
      attributes: { axis: 0 },
    });
  }
}
