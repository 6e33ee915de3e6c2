import { describe, expect, it } from 'vitest';
import { AdapterSet } from '../../src/adapters/adapterSet.ts';
import { withProduct } from '../../src/adapters/mergeWrite.ts';
import type { TargetModule } from '../../src/adapters/module.ts';
import type { ParameterSpec } from '../../src/adapters/strategy.ts';
import fc from '../fastCheck.ts';

const modules = [3, 5].map(
  (width, index): TargetModule => ({
    name: `layer.${index}`,
    index,
    in: width,
    out: 2,
    block: null,
    kind: `layer.${index}`,
  }),
);
const specs = new Map(
  modules.map((module): [TargetModule, ParameterSpec[]] => [
    module,
    [
      { role: 'A', rows: 'rank', width: module.in, init: { kind: 'normal', std: 1 }, trained: true },
      { role: 'gate', rows: 'rank', width: 1, init: { kind: 'ones' }, trained: false },
      {
        role: 'B',
        rows: 'rank',
        width: module.out,
        init: { kind: 'uniform', bound: 1 },
        growth: { kind: 'zeros' },
        trained: true,
      },
      { role: 'fixed', rows: 2, width: 1, init: { kind: 'ones' }, trained: true },
    ],
  ]),
);
const arrays = ['values', 'gradients', 'firstMoments', 'secondMoments'] as const;

/** All that is kept of each row, by module, role and serial (or row, where ranks do not count). */
function rowsOf(set: AdapterSet): Map<string, number[]> {
  return new Map(
    set.slots.flatMap((slot) => {
      const { module, spec, rows, firstRow } = slot;
      return Array.from({ length: rows }, (_, row): [string, number[]] => {
        const serial = spec.rows === 'rank' ? set.serials(module)[row]! : row;
        const part = (name: (typeof arrays)[number]) =>
          [...set.view(name, slot)].slice(row * spec.width, (row + 1) * spec.width);
        return [
          `${module.name} ${spec.role} ${serial}`,
          [...arrays.flatMap(part), set.steps[firstRow + row]!],
        ];
      });
    }),
  );
}

const action = fc.record({
  module: fc.nat(1),
  grow: fc.boolean(),
  count: fc.integer({ min: 0, max: 3 }),
  picks: fc.array(fc.nat(20), { maxLength: 4 }),
});

describe('adapter set', () => {
  it('keeps every surviving row with its moments, and never gives a serial twice', () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 8 }), fc.nat(100), (actions, seed) => {
        const set = new AdapterSet(modules, specs, [2, 0], seed);
        const seen = modules.map((module) => new Set(set.serials(module)));
        let mark = 0;
        for (const { module: index, grow, count, picks } of actions) {
          const module = modules[index]!;
          // Something of its own in each place.
          for (const name of arrays)
            set[name].forEach((_, i) => {
              set[name][i] = ++mark;
            });
          set.steps.forEach((_, i) => {
            set.steps[i] = ++mark;
          });
          const before = rowsOf(set);
          const serials = [...set.serials(module)];
          if (grow) set.grow(module, count);
          else
            set.prune(
              module,
              picks.filter((pick) => pick < serials.length),
            );
          const after = rowsOf(set);
          const gone = new Set(grow ? [] : picks.flatMap((pick) => serials[pick] ?? []));
          const kept = serials.filter((serial) => !gone.has(serial));
          const fresh = set.serials(module).filter((serial) => !serials.includes(serial));
          expect(set.serials(module)).toEqual([...kept, ...fresh]);
          expect(fresh).toHaveLength(grow ? count : 0);
          for (const serial of fresh) {
            expect(seen[index]!.has(serial)).toBe(false);
            seen[index]!.add(serial);
            // B is zero, so that the function does not change; moments and steps start anew.
            expect(after.get(`${module.name} B ${serial}`)).toEqual(new Array(9).fill(0));
            expect(after.get(`${module.name} A ${serial}`)!.slice(module.in)).toEqual(
              new Array(3 * module.in + 1).fill(0),
            );
          }
          for (const [key, row] of after) if (before.has(key)) expect(row).toEqual(before.get(key));
          const ranks = modules.map((each) => set.rank(each));
          expect(set.values).toHaveLength(ranks[0]! * 6 + ranks[1]! * 8 + 4);
          expect(set.liveParameters()).toBe(ranks[0]! * 5 + ranks[1]! * 7 + 4);
          expect(set.live(module)).toHaveLength(set.rank(module));
        }
        const restored = new AdapterSet(modules, specs, [1, 1], seed);
        restored.restoreLayout(JSON.parse(JSON.stringify(set.saveLayout())));
        for (const name of arrays) restored[name].set(set[name]);
        restored.steps.set(set.steps);
        expect(rowsOf(restored)).toEqual(rowsOf(set));
        for (const each of [set, restored]) each.grow(modules[0]!, 1);
        expect(rowsOf(restored)).toEqual(rowsOf(set));
      }),
    );
  });

  it('draws a grown row alike, whatever was pruned before', () => {
    const grown = [[], [0], [1, 0]].map((pruned) => {
      const set = new AdapterSet(modules, specs, [2, 2], 7);
      set.prune(modules[1]!, pruned);
      set.grow(modules[1]!, 1);
      return rowsOf(set).get('layer.1 A 2');
    });
    expect(grown[0]!.some((value) => value !== 0)).toBe(true);
    expect(grown[1]).toEqual(grown[0]);
    expect(grown[2]).toEqual(grown[0]);
  });
});

describe('an adapter that is merged and taken out again', () => {
  it('leaves the weight that was there, in either layout', () => {
    const number = fc.float({ min: -4, max: 4, noNaN: true });
    const floats = (length: number) => fc.array(number, { minLength: length, maxLength: length });
    fc.assert(
      fc.property(floats(12), floats(6), floats(8), floats(2), number, (weight, a, b, gate, scale) => {
        const factors = {
          rank: 2,
          in: 3,
          out: 4,
          A: Float32Array.from(a),
          B: Float32Array.from(b),
          gate: Float32Array.from(gate),
        };
        const inOut = Float32Array.from(weight);
        const outIn = Float32Array.from({ length: 12 }, (_, i) => inOut[(i % 3) * 4 + Math.floor(i / 3)]!);
        const merged = withProduct(inOut, { ...factors, scale }, 'in-out');
        const turned = withProduct(outIn, { ...factors, scale }, 'out-in');
        merged.forEach((value, i) => {
          // Float64 sums of a few products below 4^4, in another order.
          expect(Math.abs(value - turned[(i % 4) * 3 + Math.floor(i / 4)]!)).toBeLessThan(1e-12);
        });
        // Rounded once to float32, 600 at the most, on the way.
        const back = withProduct(Float32Array.from(merged), { ...factors, scale: -scale }, 'in-out');
        back.forEach((value, i) => {
          expect(Math.abs(value - inOut[i]!)).toBeLessThan(600 * 2 ** -24 + 1e-12);
        });
      }),
    );
  });
});
