import type { Dim, Model } from '../onnx/graph.ts';
import { inferTypes } from './inferTypes.ts';

/** Inputs [batch, length] of one sequence, ids first. */
const sequences = [
  ['input_ids', 'attention_mask', 'token_type_ids', 'position_ids'],
  ['decoder_input_ids', 'decoder_attention_mask', 'decoder_position_ids'],
] as const;

/**
 * Says in place that ids, mask, segments and positions of a sequence are equally long, where an exporter left their
 * lengths unnamed or gave each input names of its own. Only for graphs without a cache (see emptyCache), where they
 * are. Numbers stay. Returns whether anything was named anew.
 */
export function nameAxes(model: Model): boolean {
  const { graph } = model;
  let changed = false;
  for (const names of sequences) {
    const inputs = names.flatMap((name) => graph.findInput(name) ?? []).filter((v) => v.shape?.length === 2);
    const prefix = names[0].startsWith('decoder') ? 'decoder_' : '';
    const first = inputs[0]?.shape;
    const lengths = [first?.[0] ?? 'batch_size', first?.[1] ?? `${prefix}sequence_length`];
    for (const input of inputs) {
      const shape = input.shape!.map((dim, axis): Dim => (typeof dim === 'number' ? dim : lengths[axis]!));
      changed ||= shape.some((dim, axis) => dim !== input.shape![axis]);
      input.shape = shape;
    }
  }
  if (changed) inferTypes(model);
  return changed;
}
