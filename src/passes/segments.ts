import { AloraError } from '../errors.ts';
import { isFloat } from '../onnx/dtype.ts';
import type { Graph, Model, Node, Value } from '../onnx/graph.ts';
import { inferTypes } from './inferTypes.ts';
import { keepOutputs } from './prune.ts';

/** Inputs that carry what is modelled, as opposed to masks, positions, parameters and what an encoder supplies. */
const contentInputs =
  /^(decoder_)?(input_ids|inputs_embeds)$|^(pixel_values|input_features|input_values|input)$/;

/** Lookups by which ids become vectors. */
const embeddings = new Set(['Gather', 'GatherBlockQuantized', 'EmbedLayerNormalization']);

/** Operators whose result holds lengths only. */
const measures = new Set(['Shape', 'Size']);

export interface Segments {
  /**
   * Tensors that every path from the embeddings to the output crosses, in order: the residual stream between (and
   * around) blocks. Segment i lies between cuts[i - 1] and cuts[i]; the last one ends in the output.
   */
  readonly cuts: readonly Value[];
  /**
   * Segment of a node that the output depends on; the node that computes cuts[i] lies in segment i. null for nodes
   * off the stream: what is computed from masks, positions, lengths and parameters alone, and what the output does
   * not need.
   */
  segmentOf(node: Node): number | null;
  /** Values from off the stream (constants aside) that nodes of a segment read: masks, rotary tables, parameters. */
  sideValues(segment: number): readonly Value[];
}

/**
 * Finds where a graph can be cut between its blocks, without knowing its architecture: single tensors that dominate
 * the output in the flow of hidden states. `content` names the inputs that hidden states start from (default:
 * input_ids, inputs_embeds, pixel_values and the like). Errors: MODEL_NO_CONTENT (model) when there are none.
 */
export function findSegments(model: Model, output: Value, content?: readonly string[]): Segments {
  inferTypes(model);
  const { graph } = model;
  const starts = graph.inputs.filter((value) =>
    content ? content.includes(value.name) : contentInputs.test(value.name),
  );
  if (starts.length === 0)
    throw new AloraError('model', 'MODEL_NO_CONTENT', 'No input of the model starts its hidden states', {
      got: graph.inputs.map((value) => value.name).join(', '),
      allowed: 'input_ids, inputs_embeds, pixel_values, input_features',
      fix: 'Name the input that carries the data.',
    });
  const stream = streamOf(graph, starts, output);
  const cuts = cutsOf(stream);
  const ends = new Map(cuts.map((value, i) => [value.producer!, i]));
  const segments = new Map<Node, number>();
  let segment = 0;
  for (const node of stream.nodes) {
    segments.set(node, segment);
    const ended = ends.get(node);
    if (ended !== undefined) segment = ended + 1;
  }
  return {
    cuts,
    segmentOf: (node) => segments.get(node) ?? null,
    sideValues: (wanted) => [
      ...new Set(
        stream.nodes.flatMap((node) =>
          segments.get(node) === wanted
            ? node.inputs.filter(
                (value): value is Value => value !== null && !value.initializer && !stream.values.has(value),
              )
            : [],
        ),
      ),
    ],
  };
}

interface Stream {
  /** Nodes of the flow that the output depends on, in topological order. */
  readonly nodes: readonly Node[];
  /** What they compute, and float inputs that the flow starts from. */
  readonly values: ReadonlySet<Value>;
  readonly output: Value;
}

/** Nodes that hidden states flow through: ids reach it by a lookup in a table of floats, and by nothing else. */
function streamOf(graph: Graph, starts: readonly Value[], output: Value): Stream {
  const needed = new Set<Node>();
  const pending: (Value | null)[] = [output];
  while (pending.length > 0) {
    const node = pending.pop()?.producer;
    if (!node || needed.has(node)) continue;
    needed.add(node);
    pending.push(...node.inputs);
  }
  const floats = starts.filter((value) => value.dtype && isFloat(value.dtype));
  const values = new Set<Value>(floats);
  const ids = new Set<Value>(starts.filter((value) => !floats.includes(value)));
  const nodes: Node[] = [];
  for (const node of graph.nodes) {
    if (!needed.has(node) || measures.has(node.op)) continue;
    const inputs = node.inputs.filter((value) => value !== null);
    const fromIds = inputs.some((value) => ids.has(value));
    if (
      inputs.some((value) => values.has(value)) ||
      (fromIds && embeddings.has(node.op) && !isInteger(node))
    ) {
      nodes.push(node);
      for (const value of node.outputs) if (value) values.add(value);
    } else if (fromIds && isInteger(node)) {
      for (const value of node.outputs) if (value) ids.add(value);
    }
  }
  return { nodes, values, output };
}

const isInteger = (node: Node) => {
  const dtype = node.outputs[0]?.dtype;
  return dtype === 'int64' || dtype === 'int32';
};

/** After a cut's producer, and before anything that reads it, the cut is the only value that is still to be read. */
function cutsOf({ nodes, values, output }: Stream): Value[] {
  const reads = new Map<Value, number>();
  const own = (node: Node) => new Set(node.inputs.filter((value) => value !== null && values.has(value)));
  for (const node of nodes) for (const value of own(node)) reads.set(value!, (reads.get(value!) ?? 0) + 1);
  // Every start must have been read into the flow before anything can dominate the output.
  const isStart = (node: Node) => ![...own(node)].some((value) => value!.producer);
  let waiting = nodes.filter(isStart).length;
  const live = new Set<Value>([...reads.keys()].filter((value) => !value.producer));
  const cuts: Value[] = [];
  for (const node of nodes) {
    if (isStart(node)) waiting--;
    for (const value of own(node)) {
      const left = reads.get(value!)! - 1;
      reads.set(value!, left);
      if (left === 0) live.delete(value!);
    }
    for (const value of node.outputs) if (value && (reads.get(value) ?? 0) > 0) live.add(value);
    const [only] = live;
    if (live.size === 1 && waiting === 0 && only !== output && node.outputs.includes(only!)) cuts.push(only!);
  }
  return cuts;
}

/**
 * Makes a graph start at some of its values, in place: they become inputs, their producers and all that only these
 * needed go, and so do inputs that nothing reads any more. The outputs stay.
 */
export function startAt(graph: Graph, ...cuts: readonly Value[]): void {
  const inputs = cuts.map((cut) => {
    const input = graph.value(`${cut.name}/from`, cut.dtype, cut.shape);
    graph.replaceUses(cut, input);
    return input;
  });
  graph.inputs.unshift(...inputs);
  keepOutputs(
    graph,
    graph.outputs.map((value) => value.name),
  );
  // The producers are gone; their names are free for the inputs.
  inputs.forEach((input, i) => {
    input.name = cuts[i]!.name;
  });
}
