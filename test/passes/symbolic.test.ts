import { describe, expect, it } from 'vitest';
import type { Dim } from '../../src/onnx/graph.ts';
import {
  add,
  canonical,
  compare,
  divide,
  divideExactly,
  evaluate,
  maximum,
  minimum,
  multiply,
  substitute,
  subtract,
} from '../../src/passes/symbolic.ts';
import fc from '../fastCheck.ts';

const leaf = fc.oneof(fc.integer({ min: -9, max: 9 }), fc.constantFrom('a', 'b', 'c'));
const expression: fc.Arbitrary<Dim> = fc
  .array(fc.tuple(leaf, fc.constantFrom(add, subtract, multiply)), { minLength: 1, maxLength: 6 })
  .map((steps) => steps.reduce<Dim>((left, [right, operation]) => operation(left, right), 1));
const lengths = fc.record({
  a: fc.integer({ min: 0, max: 12 }),
  b: fc.integer({ min: 0, max: 12 }),
  c: fc.integer({ min: 0, max: 12 }),
});

describe('symbolic lengths', () => {
  it('writes equal lengths as equal strings', () => {
    expect(add('sequence_length', 'past_sequence_length')).toBe('past_sequence_length + sequence_length');
    expect(canonical('sequence_length + past_sequence_length')).toBe(
      'past_sequence_length + sequence_length',
    );
    expect(multiply(4, 'sequence_length')).toBe('4*sequence_length');
    expect(canonical('(a + b)*2 - a')).toBe('a + 2*b');
    expect(subtract(add('a', 1), 'a')).toBe(1);
    expect(subtract('a', 1)).toBe('a - 1');
    expect(subtract(0, 'a')).toBe('-a');
  });

  it('keeps what it cannot read as one name', () => {
    expect(canonical('(s0 + s1)//2')).toBe('_s0___s1___2');
    expect(canonical('unk__12')).toBe('unk__12');
  });

  it('computes as integers do', () => {
    fc.assert(
      fc.property(expression, expression, lengths, (x, y, at) => {
        const [a, b] = [evaluate(x, at)!, evaluate(y, at)!];
        expect(evaluate(add(x, y), at)).toBe(a + b);
        expect(evaluate(subtract(x, y), at)).toBe(a - b);
        expect(evaluate(multiply(x, y), at)).toBe(a * b + 0);
        expect(canonical(add(x, y))).toBe(add(y, x));
      }),
    );
  });

  it('divides exactly or not at all', () => {
    fc.assert(
      fc.property(expression, expression, (x, y) => {
        fc.pre(y !== 0 && x !== null && y !== null);
        expect(divideExactly(multiply(x, y), y)).toBe(x);
      }),
    );
    expect(divideExactly('a + 1', 2)).toBeUndefined();
    expect(divideExactly(multiply(add('a', 'b'), multiply('c', 64)), multiply(add('b', 'a'), 16))).toBe(
      '4*c',
    );
  });

  it('names a division that leaves a rest', () => {
    expect(divide('a', 2)).toBe('floordiv(a, 2)');
    expect(evaluate(divide('a', 2), { a: 7 })).toBe(3);
    expect(evaluate(add(divide(multiply('a', 'b'), 4), 1), { a: 3, b: 3 })).toBe(3);
    expect(canonical('2*floordiv(a, 2)')).toBe('2*floordiv(a, 2)');
  });

  it('compares only what holds for all lengths', () => {
    expect(compare('a', -1)).toBe(1);
    expect(compare('a', 'a')).toBe(0);
    expect(compare('a', 0)).toBeNull();
    expect(compare('a', add('a', 1))).toBe(-1);
    expect(maximum('a', add('a', 'b'))).toBe('a + b');
    expect(minimum('a', 'b')).toBeNull();
    fc.assert(
      fc.property(expression, expression, lengths, (x, y, at) => {
        const order = compare(x, y);
        if (order !== null) expect(Math.sign(evaluate(x, at)! - evaluate(y, at)!)).toBe(order);
      }),
    );
  });

  it('substitutes names', () => {
    const names = new Map<string, number | string>([
      ['past', 0],
      ['s', 'sequence_length'],
    ]);
    expect(substitute('past + s', names)).toBe('sequence_length');
    expect(substitute('2*past', names)).toBe(0);
  });
});
