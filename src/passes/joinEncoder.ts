import type { Dim, Graph, Model, Value } from '../onnx/graph.ts';
import { raiseOpset } from './raiseOpset.ts';
import { canonical, substitute } from './symbolic.ts';

/** Inputs of a decoder file that its encoder supplies. */
const hiddenStates = 'encoder_hidden_states';
const encoderMask = 'encoder_attention_mask';

/** Whether a file is the decoder of an encoder-decoder, and reads what the other file computes. */
export function readsEncoder(model: Model): boolean {
  return model.graph.findInput(hiddenStates) !== undefined;
}

/**
 * Puts the encoder of an encoder-decoder in front of its decoder, in place: one graph from `input_ids`,
 * `attention_mask` and `decoder_input_ids` to the decoder's outputs, as the PyTorch model has it. The encoder's model is
 * used up.
 */
export function joinEncoder(decoder: Model, encoder: Model): void {
  const version = Math.max(decoder.opsets.get('') ?? 1, encoder.opsets.get('') ?? 1);
  for (const model of [decoder, encoder]) raiseOpset(model, version);
  for (const [domain, own] of encoder.opsets)
    decoder.opsets.set(domain, Math.max(own, decoder.opsets.get(domain) ?? 0));
  decoder.irVersion = Math.max(decoder.irVersion, encoder.irVersion);

  const { graph } = decoder;
  for (const name of ['input_ids', 'attention_mask', 'position_ids', 'inputs_embeds']) {
    const input = graph.findInput(name);
    if (input) input.name = graph.unique(`decoder_${name}`);
  }
  const target = graph.findInput('decoder_input_ids');
  const source = encoder.graph.findInput('input_ids') ?? encoder.graph.inputs[0];
  renameAxes(graph, [
    [graph.findInput(hiddenStates), 0, 'batch_size'],
    [target, 0, 'batch_size'],
    [target, 1, 'decoder_sequence_length'],
    [graph.findInput(hiddenStates), 1, 'encoder_sequence_length'],
  ]);
  renameAxes(encoder.graph, [
    [source, 0, 'batch_size'],
    [source, 1, 'encoder_sequence_length'],
  ]);
  takeOver(graph, encoder.graph);
  supply(graph, hiddenStates, encoder.graph.outputs[0]!);
  const mask = graph.findInput('attention_mask');
  if (mask) supply(graph, encoderMask, mask);
  graph.sort();
}

/** Gives lengths the names that both halves agree on. */
function renameAxes(graph: Graph, axes: readonly (readonly [Value | undefined, number, string])[]): void {
  const names = new Map<string, string>();
  for (const [value, axis, name] of axes) {
    const dim = value?.shape?.[axis];
    if (typeof dim === 'string' && !names.has(`${canonical(dim)}`)) names.set(`${canonical(dim)}`, name);
  }
  const rename = (value: Value | null) => {
    if (value?.shape) value.shape = value.shape.map((dim): Dim => substitute(dim, names));
  };
  graph.inputs.forEach(rename);
  for (const node of graph.nodes) node.outputs.forEach(rename);
}

/** Moves inputs, constants and nodes of one graph into another, under names that are free there. */
function takeOver(graph: Graph, other: Graph): void {
  const values = new Set([
    ...other.inputs,
    ...other.initializers,
    ...other.nodes.flatMap((node) => node.outputs),
  ]);
  for (const value of values) {
    const isInput = value && other.inputs.includes(value) && !graph.findInput(value.name);
    if (value && !isInput) value.name = graph.unique(value.name);
  }
  graph.inputs.unshift(...other.inputs);
  for (const value of other.initializers) graph.initializers.add(value);
  graph.nodes.unshift(...other.nodes);
}

function supply(graph: Graph, name: string, value: Value): void {
  const input = graph.findInput(name);
  if (!input) return;
  graph.replaceUses(input, value);
  graph.inputs = graph.inputs.filter((other) => other !== input);
}
