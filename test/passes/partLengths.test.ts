import { describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph } from '../../src/onnx/graph.ts';
import { partLengths } from '../../src/passes/partLengths.ts';
import { evaluate } from '../../src/passes/symbolic.ts';

describe('partLengths', () => {
  it('renames the lengths of what depends on the seed, of what only that reads, and of nothing else', () => {
    const graph = new Graph('passes');
    const x = graph.input('x', 'float32', ['rows', 4]);
    const scale = graph.input('scale', 'float32', []);
    const make = new Builder(graph, '/m');
    const like = (rows: string) => ({ dtype: 'float32', shape: [rows, 4] }) as const;
    const forward = make.op('Sin', [x], like('rows'));
    const backward = make.op('Mul', [forward, scale], like('rows'));
    const factor = make.op('Cos', [forward], like('rows'));
    const product = make.op('Mul', [backward, factor], like('2*rows'));
    const result = make.op('Neg', [product], like('rows'));
    graph.outputs = [result];
    partLengths(graph, scale);
    const lengths = [x, forward, backward, factor, product, result].map(({ shape }) => shape![0]!);
    expect(lengths).toEqual(['rows', 'rows', '(rows)', '(rows)', '(2*rows)', 'rows']);
    // The numbers are the same.
    expect(lengths.map((dim) => evaluate(dim, { rows: 3 }))).toEqual([3, 3, 3, 3, 6, 3]);
  });
});
