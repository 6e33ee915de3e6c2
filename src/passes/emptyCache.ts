import { Builder } from '../onnx/builder.ts';
import { isFloat } from '../onnx/dtype.ts';
import type { Dim, Graph, Model, Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import { fold } from './fold.ts';
import { inlineIf } from './inlineIf.ts';
import { prune } from './prune.ts';
import { canonical, substitute } from './symbolic.ts';

/** Cached keys and values go in as `past...` and come out as `present...` in every exporter's files. */
const isPast = (value: Value) => /^past/.test(value.name) && (value.dtype === null || isFloat(value.dtype));
const isPresent = (value: Value) => /^present/.test(value.name);

/**
 * Makes a decoder that takes a key/value cache run on whole sequences, in place: past inputs become empty, present
 * outputs are dropped, the branch of a merged decoder that uses the cache goes, `num_logits_to_keep` is 0 (all),
 * `cache_position` counts from 0, and the attention mask is as long as the sequence. `input_ids`, `attention_mask`,
 * `position_ids` and whatever an encoder supplies stay inputs. Does nothing to a graph without a cache. With
 * `keepPresent`, present outputs stay, for a graph that goes on from them. Returns the names of the inputs and outputs
 * that are gone.
 */
export function emptyCache(
  model: Model,
  { keepPresent = false }: { readonly keepPresent?: boolean } = {},
): readonly string[] {
  const { graph } = model;
  const before = [...graph.inputs, ...graph.outputs].map((value) => value.name);
  const make = new Builder(graph, 'empty_cache');

  for (const [name, tensor] of [
    ['use_cache_branch', (value: Value) => Tensor.bool([false], fixed(value))],
    ['num_logits_to_keep', (value: Value) => Tensor.int64([0], fixed(value))],
  ] as const) {
    const input = graph.findInput(name);
    if (input) replaceInput(graph, input, make.constant(name, tensor(input)));
  }
  inlineIf(model);

  const past = graph.inputs.filter(isPast);
  if (past.length > 0) renameLengths(graph, past);
  for (const input of past)
    replaceInput(graph, input, input.users.size > 0 ? emptyLike(make, graph, input) : undefined);

  const position = graph.findInput('cache_position');
  const tokens = graph.findInput('input_ids') ?? graph.findInput('inputs_embeds');
  if (position && tokens) {
    const length = lengthOf(make, tokens, 1);
    const count = make.op('Squeeze', [length, make.ints([0])]);
    replaceInput(graph, position, make.op('Range', [make.int(0), count, make.int(1)]));
  }

  if (!keepPresent) graph.outputs = graph.outputs.filter((value) => !isPresent(value));
  prune(graph);
  const after = new Set([...graph.inputs, ...graph.outputs].map((value) => value.name));
  const gone = before.filter((name) => !after.has(name));
  if (gone.length > 0) fold(model);
  return gone;
}

/** A shape of ones for a one-element input whose file leaves lengths open. */
const fixed = (value: Value): number[] => (value.shape ?? []).map(() => 1);

function replaceInput(graph: Graph, input: Value, replacement: Value | undefined): void {
  if (replacement) graph.replaceUses(input, replacement);
  graph.inputs = graph.inputs.filter((value) => value !== input);
  graph.initializers.delete(input);
}

/** Length of one axis as an int64 vector of one element. */
function lengthOf(make: Builder, value: Value, axis: number): Value {
  return make.op('Slice', [
    make.op('Shape', [value]),
    make.ints([axis]),
    make.ints([axis + 1]),
    make.ints([0]),
  ]);
}

/** The axis that grows: the one whose name speaks of the past, else that of [batch, heads, length, size]. */
function cacheAxis(input: Value): number {
  const named = input.shape?.findIndex((dim) => typeof dim === 'string' && /past/.test(dim)) ?? -1;
  return named >= 0 ? named : 2;
}

/** Zeros of the cache's type with length 0; lengths that have names are taken from the inputs that share them. */
function emptyLike(make: Builder, graph: Graph, input: Value): Value {
  const axis = cacheAxis(input);
  const others = graph.inputs.filter((value) => !isPast(value));
  const parts = (input.shape ?? []).map((dim, i) => {
    if (i === axis) return make.ints([0]);
    if (typeof dim === 'number') return make.ints([dim]);
    // Where nobody shares the name it is the batch, which leads every input.
    const owner = others.find((value) => dim !== null && value.shape?.includes(dim)) ?? others[0]!;
    return lengthOf(make, owner, Math.max(0, dim === null ? 0 : owner.shape!.indexOf(dim)));
  });
  const shape = make.op('Concat', parts, { attributes: { axis: 0 } });
  return make.op('ConstantOfShape', [shape], {
    name: input.name,
    attributes: { value: Tensor.of(input.dtype ?? 'float32', [0], [1]) },
  });
}

/** Nothing is past: its length is 0 in every declared dim, and the mask's length is the sequence's. */
function renameLengths(graph: Graph, past: readonly Value[]): void {
  const names = new Map<string, number | string>();
  for (const input of past) {
    const dim = input.shape?.[cacheAxis(input)];
    if (typeof dim === 'string') names.set(`${canonical(dim)}`, 0);
  }
  const length = (graph.findInput('input_ids') ?? graph.findInput('inputs_embeds'))?.shape?.[1];
  const total = graph.findInput('attention_mask')?.shape?.at(-1);
  if (typeof total === 'string' && /^\w+$/.test(total) && typeof length === 'string' && total !== length)
    names.set(total, length);
  const rename = (value: Value) => {
    value.shape = value.shape?.map((dim): Dim => substitute(dim, names)) ?? null;
  };
  graph.inputs.filter((value) => !isPast(value)).forEach(rename);
  for (const node of graph.nodes) for (const value of node.outputs) if (value) rename(value);
}
