import { Builder } from '../onnx/builder.ts';
import type { Model, Value } from '../onnx/graph.ts';

/**
 * Makes one output of the two that a span head gives, in place: start_logits and end_logits [B, T] become
 * span_logits [B, 2, T], so that row 2b scores every position as the start of example b and row 2b + 1 as its end.
 * Positions of padding keep their logits, as in transformers, whose loss counts them too. Undefined where the model
 * has no such outputs.
 */
export function joinSpan({ graph }: Model): Value | undefined {
  const ends = [graph.findOutput('start_logits'), graph.findOutput('end_logits')];
  const [start, end] = ends;
  if (!start || !end) return undefined;
  const make = new Builder(graph, '/span');
  const rows = [start, end].map((logits) => make.op('Unsqueeze', [logits, make.ints([1])]));
  const joined = make.op('Concat', rows, { attributes: { axis: 1 }, dtype: start.dtype });
  joined.name = graph.unique('span_logits');
  graph.outputs = [joined, ...graph.outputs.filter((output) => !ends.includes(output))];
  return joined;
}
