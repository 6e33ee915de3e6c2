import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exportGraph } from 'onnx-alora';
import type { AdapterStrategy } from 'onnx-alora/strategy';
import { afterAll, describe, expect, it } from 'vitest';
import { train } from '../../fixtures/foreign-trainer/trainer.ts';
import rslora from '../../fixtures/rslora-strategy/index.js';
import { adalora, alora, lora, sora } from '../../src/strategies.ts';

const fixtures = new URL('../../fixtures/', import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-foreign-'));
afterAll(() => rmSync(scratch, { recursive: true }));

// Ids of the tiny Llama's vocabulary in a pattern that a model can learn.
const rows = (first: number, count: number) =>
  Array.from({ length: count }, (_, row) =>
    Array.from({ length: 12 }, (_, t) => 60 + ((first + row + 3 * t) % 40)),
  );

describe('a trainer that is not ours hosts', () => {
  const subjects: [string, AdapterStrategy<unknown>, Record<string, unknown>, number][] = [
    ['lora', lora as AdapterStrategy<unknown>, {}, 0],
    ['adalora', adalora as AdapterStrategy<unknown>, {}, 1],
    ['sora', sora as AdapterStrategy<unknown>, {}, 1],
    ['alora', alora as AdapterStrategy<unknown>, { rounds: 3, scorer: 'screened', examples: 8 }, 3],
    ['rslora', rslora as AdapterStrategy<unknown>, {}, 0],
  ];
  it.each(subjects)('%s', async (name, strategy, given, allocations) => {
    const folder = join(scratch, name);
    const steps = 24;
    await exportGraph(
      {
        model: { path: join(fixtures, 'models', 'llama') },
        data: { task: 'text', train: join(fixtures, 'traces', 'text.jsonl'), maxLength: 32 },
        adapter: { strategy: name },
        budget: { rank: 4 },
        train: { steps },
        output: join(scratch, 'unused'),
      },
      { out: folder, strategies: { rslora: rslora as AdapterStrategy<unknown> } },
    );
    const { adapters, losses, events, budget } = await train(strategy, strategy.options.parse(given), {
      folder,
      train: rows(0, 32),
      dev: rows(32, 8),
      batchSize: 8,
      steps,
      learningRate: 0.5,
    });
    const mean = (of: readonly number[]) => of.reduce((a, b) => a + b, 0) / of.length;
    expect(mean(losses.slice(-4))).toBeLessThan(mean(losses.slice(0, 4)));
    expect(events.length).toBeGreaterThanOrEqual(allocations);
    expect(adapters.liveParameters()).toBeLessThanOrEqual(budget.parameters);
  });

  it('with a loop of some sixty lines that knows the public API only', () => {
    const source = readFileSync(join(fixtures, 'foreign-trainer', 'trainer.ts'), 'utf8');
    const imports = [...source.matchAll(/from '([^']+)'/g)].map(([, from]) => from);
    expect(imports).toEqual(['onnx-alora/strategy', './model.ts']);
    const body = source.slice(source.indexOf('export async function train'));
    expect(body.split('\n').filter((line) => line.trim() !== '').length).toBeLessThan(75);
  });
});
