import { type AdapterStrategy, defineStrategy, injectGatedLowRank } from 'onnx-alora/strategy';
import { conformanceChecks } from 'onnx-alora/testing';
import { describe, expect, it } from 'vitest';
import rslora from '../../fixtures/rslora-strategy/index.js';
import { adalora, alora, lora, sora } from '../../src/strategies.ts';

const subjects: [string, AdapterStrategy<unknown>, Record<string, unknown>][] = [
  ['lora', lora as AdapterStrategy<unknown>, {}],
  ['adalora', adalora as AdapterStrategy<unknown>, {}],
  ['sora', sora as AdapterStrategy<unknown>, {}],
  ['alora', alora as AdapterStrategy<unknown>, {}],
  ['alora by sensitivity', alora as AdapterStrategy<unknown>, { scorer: 'sensitivity' }],
  ['alora by dnas', alora as AdapterStrategy<unknown>, { scorer: 'dnas' }],
  ['rslora, a package of a third party', rslora as AdapterStrategy<unknown>, {}],
];

describe.each(subjects)('%s', (_, strategy, options) => {
  it.each(conformanceChecks(strategy, { options }))('$name', ({ run }) => run());
});

describe('the suite finds', () => {
  const failing = async (strategy: AdapterStrategy<unknown>) => {
    const failed: string[] = [];
    for (const { name, run } of conformanceChecks(strategy)) await run().catch(() => failed.push(name));
    return failed;
  };
  const broken = (changes: Partial<AdapterStrategy<unknown>>) =>
    defineStrategy({ ...(lora as AdapterStrategy<unknown>), name: 'broken', ...changes });

  it('an adapter that changes the function at the start, or by growing', async () => {
    const ones = broken({
      inject: (graph, module) => injectGatedLowRank(graph, module, { initB: { kind: 'ones' } }),
    });
    expect(await failing(ones)).toEqual(['leaves the function as it is at the start']);
  });

  it('a plan over the budget', async () => {
    const dear = broken({
      plan: (modules) => ({ initial: modules.map(() => 5), peak: 800, final: 800, average: 800 }),
    });
    expect(await failing(dear)).toEqual([
      'plans between 99 % and 100 % of the budget',
      'ends within the budget',
    ]);
  });

  it('a scheduler that forgets its state', async () => {
    let calls = 0;
    const forgetful = broken({
      scheduler: () => {
        calls = 0;
        return {
          afterStep({ adapters }) {
            adapters.parameter(adapters.modules[0]!, 'gate')[0] = ++calls;
          },
          save: () => null,
          restore: () => {},
        };
      },
    });
    expect(await failing(forgetful)).toEqual([
      'continues from a checkpoint as if it had not stopped',
      'changes ranks at least once, and reports what it did',
    ]);
  });
});
