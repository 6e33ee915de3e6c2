import { describe, expect, it } from 'vitest';
import { crossEntropy } from '../../src/autodiff/crossEntropy.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph } from '../../src/onnx/graph.ts';
import { randomStream } from '../../src/random.ts';
import { type Numbers, session } from './run.ts';

/** Losses, gradients and predictions of a batch of rows by ONNX Runtime. */
async function evaluate(opset: number, rows: number[][], targets: number[], weights: number[]) {
  const graph = new Graph();
  const logits = graph.input('logits', 'float64', ['n', 'v']);
  const target = graph.input('targets', 'int64', ['n']);
  const weight = graph.input('weights', 'float64', ['n']);
  const loss = crossEntropy(new Builder(graph, 'loss'), logits, target, opset);
  const named = { nll: loss.nll, dLogits: loss.dLogits(weight), argmax: loss.argmax() };
  for (const [name, value] of Object.entries(named)) {
    value.name = name;
    graph.outputs.push(value);
  }
  const runner = await session(graph, opset, 'float64');
  const classes = rows[0]?.length ?? 3;
  const feeds: Record<string, Numbers> = {
    logits: { dims: [rows.length, classes], values: rows.flat() },
    targets: { dims: [targets.length], values: targets, dtype: 'int64' },
    weights: { dims: [weights.length], values: weights },
  };
  const results = await runner.run(feeds);
  await runner.release();
  return results as Record<keyof typeof named, { dims: number[]; values: number[] }>;
}

/** Textbook cross-entropy of one row: log sum exp minus the target's logit, softmax minus one-hot. */
function reference(row: number[], target: number) {
  const most = Math.max(...row);
  const sum = row.reduce((total, x) => total + Math.exp(x - most), 0);
  const nll = most + Math.log(sum) - row[target]!;
  return { nll, d: row.map((x, i) => Math.exp(x - most) / sum - (i === target ? 1 : 0)) };
}

// Scatter-add came with opset 16; axes of ReduceMax became an input with 18.
describe.each([13, 17, 18])('cross-entropy, opset %i', (opset) => {
  it('gives losses, weighted gradients and predictions of each row', async () => {
    const random = randomStream(0, 'cross-entropy');
    const rows = Array.from({ length: 4 }, () => Array.from({ length: 7 }, () => 3 * random.normal()));
    const targets = [0, 6, 3, 3];
    const weights = [1, 0.25, 0, -2];
    const results = await evaluate(opset, rows, targets, weights);
    expect(results.nll.dims).toEqual([4]);
    rows.forEach((row, n) => {
      const { nll, d } = reference(row, targets[n]!);
      // float64 throughout; errors of a few units in the last place
      expect(results.nll.values[n]).toBeCloseTo(nll, 12);
      d.forEach((value, i) => {
        expect(results.dLogits.values[7 * n + i]).toBeCloseTo(weights[n]! * value, 12);
      });
      expect(results.argmax.values[n]).toBe(row.indexOf(Math.max(...row)));
    });
  });

  it('neither overflows nor underflows', async () => {
    const rows = [
      [1e5, 0, -1e5],
      [-1e5, -1e5, -1e5],
    ];
    const results = await evaluate(opset, rows, [2, 1], [1, 1]);
    expect(results.nll.values).toEqual([2e5, expect.closeTo(Math.log(3), 12)]);
    expect(results.dLogits.values.slice(0, 3)).toEqual([1, 0, -1]);
  });

  it('takes no rows', async () => {
    const results = await evaluate(opset, [], [], []);
    expect(results.nll.dims).toEqual([0]);
    expect(results.dLogits.dims).toEqual([0, 3]);
  });
});
