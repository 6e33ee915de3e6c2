import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { chunkedLoss, chunkedPredictions, chunkLengths, findHead } from '../../src/autodiff/chunkedLoss.ts';
import { crossEntropy } from '../../src/autodiff/crossEntropy.ts';
import { differentiate } from '../../src/autodiff/differentiate.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph, type Model, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { leavesLast } from '../../src/passes/executionOrder.ts';
import { inferTypes } from '../../src/passes/inferTypes.ts';
import { keepOutputs } from '../../src/passes/prune.ts';
import { activationBytes } from '../../src/runtime/memory.ts';
import { modelOf, run } from '../passes/models.ts';

const [width, classes] = [8, 2500];

/** tanh(x P) through a head, which may have a softcap and a bias, as Gemma's and BERT's. */
function network(softcap: boolean, opset: number): { model: Model; p: Value; logits: Value; targets: Value } {
  const graph = new Graph('network');
  const x = graph.input('x', 'float32', ['labels', width]);
  const p = graph.input('p', 'float32', [width, width]);
  const targets = graph.input('targets', 'int64', ['labels']);
  const make = new Builder(graph, '/m');
  const waves = (size: number) => Float32Array.from({ length: size }, (_, i) => 2 * Math.sin(1.3 * i));
  const weight = make.constant('weight', Tensor.float32(waves(classes * width), [classes, width]));
  const transposed = make.op('Transpose', [weight], { attributes: { perm: [1, 0] } });
  let logits = make.op('MatMul', [make.op('Tanh', [make.op('MatMul', [x, p])]), transposed]);
  if (softcap) {
    logits = make.op('Add', [logits, make.constant('bias', Tensor.float32(waves(classes), [classes]))]);
    logits = make.op('Mul', [make.op('Tanh', [make.op('Mul', [logits, make.scalar(0.2)])]), make.scalar(5)]);
  }
  graph.outputs = [logits];
  const model = modelOf(graph, opset);
  inferTypes(model);
  return { model, p, logits, targets };
}

/** Losses and the gradient of p, the head at once or in chunks. */
function graphOf(chunked: boolean, softcap: boolean, opset: number): Model {
  const { model, p, logits, targets } = network(softcap, opset);
  const { graph } = model;
  const builder = new Builder(graph, '/training');
  const scale = graph.input('scale', 'float32', []);
  let losses: Value;
  let seed: readonly [Value, Value];
  if (chunked) {
    const head = findHead(graph, logits, [p])!;
    expect(head.hidden.producer?.op).toBe('Tanh');
    ({ losses, seed } = chunkedLoss(model, builder, head, targets, scale));
  } else {
    const loss = crossEntropy(builder, logits, targets, opset);
    losses = loss.nll;
    const length = builder.op('Shape', [losses]);
    const weights = builder.op('Expand', [scale, length], { dtype: 'float32', shape: losses.shape });
    seed = [logits, loss.dLogits(weights)];
  }
  const gradient = differentiate(graph, [seed], [p], { opset }).get(p)!;
  graph.outputs = [losses, gradient];
  losses.name = 'losses';
  gradient.name = 'gradient';
  keepOutputs(graph, ['losses', 'gradient']);
  leavesLast(graph);
  return model;
}

/** Losses and predictions without gradient, the head at once or in chunks. */
function forwardOf(chunked: boolean, softcap: boolean, opset: number): Model {
  const { model, logits, targets } = network(softcap, opset);
  const { graph } = model;
  const builder = new Builder(graph, '/training');
  const whole = () => {
    const loss = crossEntropy(builder, logits, targets, opset);
    return { losses: loss.nll, predictions: loss.argmax() };
  };
  const head = chunked && findHead(graph, logits, []);
  const { losses, predictions } = head ? chunkedPredictions(model, builder, head, targets) : whole();
  graph.outputs = [losses, predictions];
  losses.name = 'losses';
  predictions.name = 'predictions';
  keepOutputs(graph, ['losses', 'predictions']);
  return model;
}

function feeds(rows: number) {
  const floats = (dims: number[]) => {
    const size = dims.reduce((a, b) => a * b, 1);
    return new ort.Tensor(
      'float32',
      Float32Array.from({ length: size }, (_, i) => Math.cos(2.1 * i)),
      dims,
    );
  };
  const targets = BigInt64Array.from({ length: rows }, (_, i) => BigInt((i * 739) % classes));
  return {
    x: floats([rows, width]),
    p: floats([width, width]),
    targets: new ort.Tensor('int64', targets, [rows]),
    scale: new ort.Tensor('float32', Float32Array.of(1 / Math.max(1, rows)), []),
  };
}

// Scatter-add came with opset 16.
describe.each([
  [13, false],
  [18, true],
  [20, false],
])('the loss in chunks, opset %i, softcap %s', (opset, softcap) => {
  it.each([0, 1, 170, 508, 1700])('gives losses and gradients of the whole: %i rows', async (rows) => {
    const whole = await run(graphOf(false, softcap, opset), feeds(rows));
    const parts = await run(graphOf(true, softcap, opset), feeds(rows));
    const apart = (name: string) => {
      const [a, b] = [whole[name]!, parts[name]!].map(({ data }) => data as Float32Array);
      expect(b).toHaveLength(a!.length);
      return a!.reduce((most, value, i) => Math.max(most, Math.abs(value - b![i]!)), 0);
    };
    // Losses are about 8 and gradients 0.1 here; a few units in the last place of float32, sums over rows in
    // another order.
    expect(apart('losses')).toBeLessThan(5e-6);
    expect(apart('gradient')).toBeLessThan(1e-6);
  });
});

describe.each([
  [13, false],
  [18, true],
  [20, false],
])('evaluation in chunks, opset %i, softcap %s', (opset, softcap) => {
  it.each([0, 1, 170, 508, 1700])('gives losses and predictions of the whole: %i rows', async (rows) => {
    const { scale: _, ...inputs } = feeds(rows);
    const whole = await run(forwardOf(false, softcap, opset), inputs);
    const parts = await run(forwardOf(true, softcap, opset), inputs);
    expect(parts.predictions!.data).toEqual(whole.predictions!.data);
    const losses = [whole, parts].map((outputs) => Array.from(outputs.losses!.data as Float32Array));
    expect(losses[1]).toHaveLength(rows);
    // Losses of about 8; a few units in the last place of float32.
    losses[1]!.forEach((loss, i) => {
      expect(Math.abs(loss - losses[0]![i]!)).toBeLessThan(5e-6);
    });
  });
});

describe('the loss in chunks', () => {
  it.each([
    ['with gradient', graphOf],
    ['alone', forwardOf],
  ])('keeps the logits of one chunk, once: %s', (_, make) => {
    const bytes = (chunked: boolean, rows: number) => {
      const model = make(chunked, false, 20);
      return activationBytes(model, { labels: rows, ...chunkLengths('labels', rows) }).live;
    };
    const logits = 1536 * classes * 4;
    expect(bytes(false, 1536)).toBeGreaterThan(0.9 * logits);
    expect(bytes(true, 1536)).toBeLessThan(0.2 * logits);
    // As many rows as one chunk takes.
    expect(bytes(true, 256)).toBeLessThan(0.2 * logits);
  });

  it.each([0, 1, 159, 383, 508, 960, 1536, 5000])('deals out every row once: %i', (rows) => {
    const lengths = Object.values(chunkLengths('labels', rows));
    expect(lengths.reduce((sum, length) => sum + length, 0)).toBe(rows);
    expect(Math.max(...lengths)).toBeLessThanOrEqual(Math.max(383, Math.ceil(rows / 6)));
  });

  it('leaves alone a head with a trained parameter, and one of few classes', () => {
    const { model, logits, p } = network(true, 20);
    const { graph } = model;
    const make = new Builder(graph, '/m');
    const own = graph.input('own', 'float32', [classes]);
    const shifted = make.op('Add', [logits, own], { dtype: 'float32', shape: logits.shape });
    expect(findHead(graph, shifted, [p])).toBeDefined();
    expect(findHead(graph, shifted, [p, own])).toBeUndefined();
    const few = make.op('ReduceMax', [logits, make.ints([1])], { dtype: 'float32', shape: ['labels', 1] });
    expect(findHead(graph, few, [p])).toBeUndefined();
  });
});
