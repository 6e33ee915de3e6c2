import type { Builder } from '../onnx/builder.ts';
import type { Value } from '../onnx/graph.ts';
import { Emitter } from './emitter.ts';

/** Cross-entropy per row. N = rows, V = classes. */
export interface CrossEntropy {
  /** Negative log-likelihood of each row's target, (N). */
  readonly nll: Value;
  /**
   * Appends the gradient of sum(weights * nll) with respect to the logits, (N, V), from weights (N): a row's weight
   * times softmax minus one-hot. Seed `differentiate` with [logits, dLogits(weights)]. Without weights each row weighs
   * 1, and the gradient takes the place of the softmax.
   */
  dLogits(weights?: Value): Value;
  /** Appends the index of each row's largest logit, (N) int64; the first one where several tie. */
  argmax(): Value;
}

/**
 * Appends the cross-entropy of each row of `logits` (N, V), a float type, with `targets` (N) int64 in [0, V).
 *
 * Three passes over the logits forward and two backward, and only the softmax p is kept: the largest
 * probability of a row is 1 / sum exp(x - max), so nll = -log max(p) - (x[target] - max), which neither overflows
 * nor loses an unlikely target to underflow. (LogSoftmax has no kernel on WebGPU and would keep a second matrix.)
 */
export function crossEntropy(builder: Builder, logits: Value, targets: Value, opset: number): CrossEntropy {
  const e = new Emitter(builder, opset);
  const rows = logits.shape?.[0] ?? targets.shape?.[0] ?? null;
  const largest = (x: Value) =>
    e.op(
      'ReduceMax',
      opset >= 18 ? [x, builder.ints([1])] : [x],
      { keepdims: 1, axes: opset >= 18 ? undefined : [1] },
      { shape: [rows, 1] },
    );
  const column = e.unsqueeze(targets, [1]);
  const p = e.unary('Softmax', logits, { axis: 1 });
  // Written before what reads the logits, hence run after it: then the softmax takes the place of the logits.
  const log = e.unary('Log', largest(p));
  const chosen = e.op('GatherElements', [logits, column], { axis: 1 }, { shape: [rows, 1] });
  const nll = e.sub(e.sub(largest(logits), chosen), log);
  return {
    nll: e.squeeze(nll, [1]),
    dLogits(weights) {
      const weight = weights && e.unsqueeze(weights, [1]);
      const weighted = (x: Value) => (weight ? e.mul(x, weight) : x);
      const shape = logits.shape;
      if (opset >= 16) {
        // Measured on the losses: not there before all that they read of logits and softmax has been read.
        const like = () => e.op('Shape', [nll], {}, { dtype: 'int64', shape: [2] });
        const minus = weight
          ? e.neg(weight)
          : e.op('Expand', [e.builder.scalar(-1, e.dtype(logits)), like()], {}, { shape: [rows, 1] });
        // The one-hot term is added in place.
        return e.op(
          'ScatterElements',
          [weighted(p), column, minus],
          { axis: 1, reduction: 'add' },
          { shape },
        );
      }
      const classes = e.op('Range', [
        builder.int(0),
        e.squeeze(e.lengths.axis(logits, 1), [0]),
        builder.int(1),
      ]);
      const hot = e.op('Equal', [column, classes], {}, { dtype: 'bool', shape });
      return weighted(e.where(hot, e.sub(p, 1), p));
    },
    argmax() {
      return e.op('ArgMax', [logits], { axis: 1, keepdims: 0 }, { dtype: 'int64', shape: [rows] });
    },
  };
}
