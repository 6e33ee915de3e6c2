import { describe, expect, it } from 'vitest';
import { Graph, Node, type Value } from '../../src/onnx/graph.ts';
import { stagesBySwitch } from '../../src/passes/stages.ts';
import fc from '../fastCheck.ts';

/** A graph of Adds: `x` is data, gates are switches, everything else reads earlier values. */
function build() {
  const graph = new Graph();
  const x = graph.input('x', 'float32', ['n']);
  const gate = (name: string) => graph.input(name, 'float32', ['n']);
  const add = (...inputs: Value[]) => {
    const output = graph.value('v', 'float32', ['n']);
    return graph.add(new Node('Sum', '', '', inputs, [output])).output;
  };
  const cut = (gates: Value[]) => stagesBySwitch(graph, new Set(gates), ({ name }) => name !== 'x');
  return { graph, x, gate, add, cut };
}

describe('stages between switches', () => {
  it('a chain: each switch begins a stage, what lies before it belongs to the one before', () => {
    const { graph, x, gate, add, cut } = build();
    const [g, h] = [gate('g'), gate('h')];
    const product = add(x, x);
    const scaled = add(g, g);
    const gated = add(product, scaled);
    const next = add(gated, gated);
    const end = add(next, product, h);
    graph.outputs = [end];
    const stages = cut([g, h]);
    expect(stages.count).toBe(3);
    expect([product, gated, next, end].map((value) => stages.stageOf(value.producer!))).toEqual([0, 1, 1, 2]);
    expect(stages.stageOf(scaled.producer!)).toBeNull();
    expect([g, h].map(stages.firstStage)).toEqual([1, 2]);
    expect(stages.handedOn.map((values) => [...values])).toEqual([[[product, 2]], [[next, 2]], []]);
  });

  it('parallel switches share a stage, and a side branch waits for what it meets', () => {
    const { graph, x, gate, add, cut } = build();
    const [q, k, late, o, unread] = ['q', 'k', 'late', 'o', 'unread'].map(gate) as [
      Value,
      Value,
      Value,
      Value,
      Value,
    ];
    const mixed = add(add(x, q), add(x, k));
    const output = add(mixed, o);
    const side = add(x, late);
    graph.outputs = [add(output, side)];
    const stages = cut([q, k, late, o, unread]);
    // The side branch joins behind the second stage: as late as possible, so that it does not make q's settings dearer.
    expect([q, k, late, o, unread].map(stages.firstStage)).toEqual([1, 1, 2, 2, 3]);
  });

  it('whatever depends on a switch comes at or after its first stage, and values are handed on to all readers', () => {
    const step = fc.record({
      inputs: fc.array(fc.nat(), { minLength: 1, maxLength: 3 }),
      gated: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 30 }), (steps) => {
        const { graph, x, gate, add, cut } = build();
        const values: Value[] = [x];
        const gates: Value[] = [];
        const depends = new Map<Value, Set<Value>>([[x, new Set()]]);
        for (const { inputs, gated } of steps) {
          const reads = inputs.map((i) => values[i % values.length]!);
          const own = gated ? [gate(`gate${gates.length}`)] : [];
          gates.push(...own);
          const value = add(...reads, ...own);
          depends.set(value, new Set([...own, ...reads.flatMap((read) => [...depends.get(read)!])]));
          values.push(value);
        }
        graph.outputs = [add(...values.slice(-1))];
        const stages = cut(gates);
        for (const value of values.slice(1)) {
          const stage = stages.stageOf(value.producer!)!;
          for (const of of depends.get(value)!) expect(stage).toBeGreaterThanOrEqual(stages.firstStage(of));
          for (const user of value.users) {
            const read = stages.stageOf(user)!;
            expect(read).toBeGreaterThanOrEqual(stage);
            if (read > stage) expect(stages.handedOn[stage]!.get(value)).toBeGreaterThanOrEqual(read);
          }
        }
      }),
    );
  });
});
