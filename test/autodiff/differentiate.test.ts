import { describe, expect, it } from 'vitest';
import { differentiate, uncovered } from '../../src/autodiff/differentiate.ts';
import { AloraError } from '../../src/errors.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph, Node, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { type Numbers, session } from './run.ts';

const opset = 17;

function newGraph() {
  const graph = new Graph();
  return { graph, b: new Builder(graph, 'forward') };
}

/** Runs a graph for the given values as outputs; by their key. */
async function evaluate(graph: Graph, outputs: Record<string, Value>, feeds: Record<string, Numbers>) {
  for (const [name, value] of Object.entries(outputs)) value.name = name;
  graph.outputs = Object.values(outputs);
  const runner = await session(graph, opset, 'float64');
  const results = await runner.run(feeds);
  await runner.release();
  return Object.fromEntries(Object.entries(results).map(([name, { values }]) => [name, values]));
}

function failure(run: () => unknown): AloraError {
  try {
    run();
  } catch (error) {
    if (error instanceof AloraError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

describe('differentiate', () => {
  it('adds up the uses of a value', async () => {
    const { graph, b } = newGraph();
    const x = graph.input('x', 'float64', [2]);
    const y = b.op('Add', [b.op('Mul', [x, x]), b.op('Add', [x, x])]);
    const loss = b.op('ReduceSum', [y], { attributes: { keepdims: 0 }, shape: [] });
    const dx = differentiate(graph, loss, [x], { opset }).get(x)!;
    const { d } = await evaluate(graph, { d: dx }, { x: { dims: [2], values: [3, -1] } });
    expect(d).toEqual([8, 0]); // 2x + 2
  });

  it('takes a loss of shape [1] and refuses a larger one', async () => {
    const { graph, b } = newGraph();
    const x = graph.input('x', 'float64', [3]);
    const loss = b.op('ReduceSum', [x, b.ints([0])], { shape: [1] });
    const dx = differentiate(graph, loss, [x], { opset }).get(x)!;
    const { d } = await evaluate(graph, { d: dx }, { x: { dims: [3], values: [1, 2, 3] } });
    expect(d).toEqual([1, 1, 1]);
    const error = failure(() => differentiate(graph, x, [x], { opset }));
    expect(error.code).toBe('MODEL_LOSS_SHAPE');
  });

  it('takes several seeds, one behind the other', async () => {
    const { graph, b } = newGraph();
    const x = graph.input('x', 'float64', [2]);
    const y = b.op('Mul', [x, b.scalar(3, 'float64')]);
    const z = b.op('Mul', [y, y]);
    const dy = graph.input('dy', 'float64', [2]);
    const dz = graph.input('dz', 'float64', [2]);
    const seeds = [
      [y, dy],
      [z, dz],
    ] as const;
    const gradients = differentiate(graph, seeds, [x, y], { opset });
    const at = { x: [1, 2], dy: [10, 20], dz: [1, 1] };
    const feeds = Object.fromEntries(
      Object.entries(at).map(([name, values]) => [name, { dims: [2], values }]),
    );
    const results = await evaluate(graph, { dx: gradients.get(x)!, dAtY: gradients.get(y)! }, feeds);
    expect(results.dAtY).toEqual([16, 32]); // dy + 2 y dz
    expect(results.dx).toEqual([48, 96]);
  });

  it('takes x sigmoid x at once, unless the sigmoid is a constant or its gradient is asked for', async () => {
    const values = [-30, -2, -0.3, 0, 0.7, 3, 40];
    const numbers = { dims: [values.length], values };
    const gradientsOf = async (plain: boolean, own: 'inner' | 'asked' | 'stopped') => {
      const { graph, b } = newGraph();
      const x = graph.input('x', 'float64', [values.length]);
      const dy = graph.input('dy', 'float64', [values.length]);
      const one = b.scalar(1, 'float64');
      const s = plain
        ? b.op('Div', [one, b.op('Add', [one, b.op('Exp', [b.op('Neg', [x])])])])
        : b.op('Sigmoid', [x]);
      const seeds = [[b.op('Mul', [s, b.op('Mul', [x, s])]), dy]] as const;
      const wrt = own === 'asked' ? [x, s] : [x];
      const stopAt = new Set(own === 'stopped' ? [s] : []);
      const gradients = differentiate(graph, seeds, wrt, { opset, stopAt });
      const outputs = Object.fromEntries(wrt.map((value, i) => [`d${i}`, gradients.get(value)!]));
      return evaluate(graph, outputs, { x: numbers, dy: { ...numbers, values: values.map(Math.cos) } });
    };
    for (const own of ['inner', 'asked', 'stopped'] as const) {
      const [expected, got] = [await gradientsOf(true, own), await gradientsOf(false, own)];
      for (const [name, derivatives] of Object.entries(expected))
        derivatives.forEach((value, i) => {
          expect(got[name]![i]).toBeCloseTo(value, 12);
        });
    }
  });

  it('gives null where no path leads to the loss', () => {
    const { graph, b } = newGraph();
    const x = graph.input('x', 'float64', [2]);
    const other = graph.input('other', 'float64', [2]);
    const rounded = b.op('Round', [other]);
    const loss = b.op('ReduceSum', [b.op('Add', [x, rounded])], { attributes: { keepdims: 0 } });
    const gradients = differentiate(graph, loss, [x, other], { opset });
    expect(gradients.get(x)).toBeTruthy();
    expect(gradients.get(other)).toBeNull();
  });

  it('treats stopAt as constants', async () => {
    const { graph, b } = newGraph();
    const x = graph.input('x', 'float64', []);
    const square = b.op('Mul', [x, x]);
    const loss = b.op('Mul', [square, x], { shape: [] });
    const dx = differentiate(graph, loss, [x], { opset, stopAt: new Set([square]) }).get(x)!;
    const { d } = await evaluate(graph, { d: dx }, { x: { dims: [], values: [3] } });
    expect(d).toEqual([9]);
  });

  it('gives every value a gradient of its own, apart from seeds and constants', () => {
    const { graph, b } = newGraph();
    const [p, q] = [graph.input('p', 'float64', [2]), graph.input('q', 'float64', [2])];
    const y = b.op('Add', [p, q], { shape: [2] });
    const dy = graph.input('dy', 'float64', [2]);
    const gradients = differentiate(graph, [[y, dy]], [p, q], { opset });
    expect(new Set([gradients.get(p), gradients.get(q), dy]).size).toBe(3);
  });

  it('types gradients like their values', () => {
    const { graph, b } = newGraph();
    const x = graph.input('x', 'float32', ['n', 4]);
    const wide = b.op('Cast', [x], { attributes: { to: 11 } });
    const loss = b.op('ReduceMean', [b.op('Exp', [wide])], { attributes: { keepdims: 0 } });
    const dx = differentiate(graph, loss, [x], { opset: 18 }).get(x)!;
    expect([dx.dtype, dx.shape]).toEqual(['float32', ['n', 4]]);
  });

  it('writes nothing for what is frozen', () => {
    const { graph, b } = newGraph();
    const x = graph.input('x', 'float32', ['n', 4]);
    const weight = b.constant('weight', Tensor.float32(Array(12).fill(1), [4, 3]));
    const before = b.op('Tanh', [b.op('MatMul', [x, weight], { shape: ['n', 3] })], { shape: ['n', 3] });
    const scale = graph.input('scale', 'float32', [3]);
    const y = b.op('Mul', [before, scale], { shape: ['n', 3] });
    const dy = graph.input('dy', 'float32', ['n', 3]);
    const forward = new Set(graph.nodes);
    differentiate(graph, [[y, dy]], [scale], { opset });
    expect(graph.nodes.filter((node) => !forward.has(node)).map((node) => node.op)).toEqual([
      'Mul',
      'ReduceSum',
    ]);
    expect(weight.users.size).toBe(1);
  });

  it('dequantises a frozen weight anew, so that its floats need not outlive the forward product', () => {
    for (const op of ['MatMul', 'Gemm']) {
      const { graph, b } = newGraph();
      const x = graph.input('x', 'float32', ['n', 2]);
      const bytes = b.constant('bytes', Tensor.of('int8', [1, -2, 3, 4, 5, -6], [2, 3]));
      const weight = b.op('DequantizeLinear', [bytes, b.scalar(0.5)], { dtype: 'float32', shape: [2, 3] });
      const y = b.op(op, [x, weight], { shape: ['n', 3] });
      const dy = graph.input('dy', 'float32', ['n', 3]);
      differentiate(graph, [[y, dy]], [x], { opset });
      expect([...weight.users].map((user) => user.op)).toEqual([op]);
      expect([...bytes.users].map((user) => user.op)).toEqual(['DequantizeLinear', 'DequantizeLinear']);
    }
  });

  it('joins the gradients of slices that fill an axis', () => {
    const { graph, b } = newGraph();
    const x = graph.input('x', 'float32', ['n', 6]);
    const cut = (start: number, end: number) =>
      b.op('Slice', [x, b.ints([start]), b.ints([end]), b.ints([-1])], { shape: ['n', end - start] });
    const parts = [cut(0, 2), cut(4, 6), cut(2, 4)].map((part) => b.op('Exp', [part], { shape: ['n', 2] }));
    const y = b.op('Sum', parts, { shape: ['n', 2] });
    const dy = graph.input('dy', 'float32', ['n', 2]);
    const forward = new Set(graph.nodes);
    differentiate(graph, [[y, dy]], [x], { opset });
    expect(
      graph.nodes
        .filter((node) => !forward.has(node))
        .map((node) => node.op)
        .sort(),
    ).toEqual(['Concat', 'Mul', 'Mul', 'Mul']);
  });

  it('does not repeat a mean along its axis before multiplying', () => {
    const { graph, b } = newGraph();
    const x = graph.input('x', 'float32', ['n', 6]);
    const square = b.op('Pow', [x, b.scalar(2)], { shape: ['n', 6] });
    const y = b.op('ReduceMean', [square], { attributes: { axes: [-1] }, shape: ['n', 1] });
    const dy = graph.input('dy', 'float32', ['n', 1]);
    differentiate(graph, [[y, dy]], [x], { opset });
    expect(graph.nodes.map((node) => node.op)).not.toContain('Expand');
  });
});

describe('operators without a gradient', () => {
  /** scale -> <operator> -> loss, with a covered operator beside it. */
  function withOperator(
    op: string,
    domain: string,
    name: string,
    metadata: ReadonlyMap<string, string> = new Map(),
  ) {
    const { graph, b } = newGraph();
    const scale = graph.input('scale', 'float32', [3]);
    const odd = new Node(op, domain, name, [b.op('Exp', [scale])], [graph.value('odd', 'float32', [3])]);
    odd.metadata = metadata;
    graph.add(odd);
    const loss = b.op('ReduceSum', [odd.output], { attributes: { keepdims: 0 } });
    return { graph, scale, loss };
  }

  it('are refused by operator, node and module', () => {
    const { graph, scale, loss } = withOperator(
      'Attention',
      'com.microsoft',
      '/model/layers.3/self_attn/Attention',
    );
    const error = failure(() => differentiate(graph, loss, [scale], { opset }));
    expect(error.code).toBe('MODEL_NO_GRADIENT');
    expect(error.exitCode).toBe(5);
    expect(error.message).toContain("com.microsoft.Attention '/model/layers.3/self_attn/Attention'");
    expect(error.details.where).toBe('module model.layers.3.self_attn');
  });

  it('take the module from the metadata of dynamo exports', () => {
    const scopes = new Map([['pkg.torch.onnx.name_scopes', "['', 'model', 'model.layers.3', 'conv']"]]);
    const { graph, scale, loss } = withOperator('Conv', '', 'node_conv_2', scopes);
    expect(failure(() => differentiate(graph, loss, [scale], { opset })).details.where).toBe(
      'module model.layers.3',
    );
  });

  it('are listed, but only on the path', () => {
    const { graph, scale, loss } = withOperator('Conv', '', 'conv');
    const beside = graph.input('beside', 'float32', [3]);
    expect(uncovered(graph, [loss], [scale]).map(({ op, node }) => [op, node.name])).toEqual([
      ['Conv', 'conv'],
    ]);
    expect(uncovered(graph, [loss], [beside])).toEqual([]);
  });

  it('include control flow that reads a value from around it', () => {
    const { graph, b } = newGraph();
    const x = graph.input('x', 'float32', [2]);
    const condition = graph.input('condition', 'bool', []);
    const inside = b.op('Exp', [x]);
    const branch = (op: string) => {
      const body = new Graph(op);
      body.outputs = [new Builder(body, op).op(op, [inside])];
      return { type: 'graph', value: body } as const;
    };
    const y = b.op('If', [condition], {
      attributes: { then_branch: branch('Neg'), else_branch: branch('Exp') },
      dtype: 'float32',
    });
    const loss = b.op('ReduceSum', [y], { attributes: { keepdims: 0 } });
    expect(failure(() => differentiate(graph, loss, [x], { opset })).message).toMatch(/If .*control flow/);
  });

  it('include inputs through which a covered operator has none', () => {
    const { graph, b } = newGraph();
    const x = graph.input('x', 'float32', [2]);
    const low = graph.input('low', 'float32', []);
    const loss = b.op('ReduceSum', [b.op('Clip', [x, low])], { attributes: { keepdims: 0 } });
    expect(failure(() => differentiate(graph, loss, [low], { opset })).message).toContain('input 1');
    expect(differentiate(graph, loss, [x], { opset }).get(x)).toBeTruthy();
  });

  it('names the operator set that is needed', () => {
    const { graph, scale, loss } = withOperator('Exp', '', 'exp');
    expect(failure(() => differentiate(graph, loss, [scale], { opset: 11 })).code).toBe('MODEL_OPSET');
  });
});
