// The plain form: rows are gathered at the logits.
import { Builder } from '../onnx/builder.ts';
import type { Model, Value } from '../onnx/graph.ts';
export function gatherRows({ graph }: Model, logits: Value, rows: Value): Value {
  const b = new Builder(graph, '/rows');
  const shape = logits.shape!;
  if (shape.length === 2)
    return b.op('Gather', [logits, rows], {
      attributes: { axis: 0 },
      dtype: 'float32',
      shape: [rows.shape![0]!, shape.at(-1)!],
    });
  const flat = b.op('Reshape', [logits, b.ints([-1, shape.at(-1) as number])], {
    dtype: 'float32',
    shape: [null, shape.at(-1)!],
  });
  return b.op('Gather', [flat, rows], {
    attributes: { axis: 0 },
    dtype: 'float32',
    shape: [rows.shape![0]!, shape.at(-1)!],
  });
}
