import { describe, expect, it } from 'vitest';
import type { GateSetting } from '../../src/adapters/strategy.ts';
import { randomStream } from '../../src/random.ts';
import { gatesOf, naiveGateLosses } from '../../src/runtime/gateLosses.ts';
import { StagedLosses } from '../../src/runtime/stagedLosses.ts';
import { collate } from '../../src/tasks/collate.ts';
import type { Example } from '../../src/tasks/task.ts';
import { openModel } from '../../src/training/assemble.ts';
import { ReferenceHost } from '../../src/training/host.ts';
import { openAdapted } from '../../src/training/openAdapted.ts';

const fixture = (path: string) => new URL(`../../fixtures/${path}`, import.meta.url).pathname;

/** Rows of random tokens; the last four of each are trained, or one class a row. */
function rows(kind: Example['kind'], size: number, length: number, seed: number): Example[] {
  const random = randomStream(seed, 'rows');
  return Array.from({ length: size }, (_, i): Example => {
    const ids = Array.from({ length: length - (i % 3) }, () => 3 + random.integer(80));
    const targets =
      kind === 'sequence'
        ? [i % 2]
        : ids.map((_, t) => (t >= ids.length - 5 && t + 1 < ids.length ? ids[t + 1]! : -1));
    return { kind, ids, targets, source: { file: 'test', line: i + 1 } };
  });
}

const batch = (...of: Parameters<typeof rows>) => collate(rows(...of), { padId: 1 });

describe('losses under many gate settings', () => {
  it.each([
    ['llama', 'traces/alora/adapter', 'token'],
    ['gpt2', 'traces/gpt2/initial', 'token'],
    ['phi3', 'traces/phi3/initial', 'token'],
    ['opt', 'traces/opt/initial', 'token'],
    ['bert', 'traces/bert/initial', 'sequence'],
  ] as const)('%s: stage by stage as by whole passes', async (model, adapter, kind) => {
    const opened = openModel({ path: fixture(`models/${model}`) });
    const { runtime, adapters } = openAdapted(opened, {
      adapter: fixture(adapter),
      device: 'cpu',
      threads: 1,
    });
    const batches = [batch(kind, 5, 12, 1), batch(kind, 3, 7, 2)];
    const single = adapters.modules.flatMap((module) =>
      Array.from({ length: adapters.rank(module) }, (_, rank) => [module.index, rank] as const),
    );
    const settings: GateSetting[] = [
      { on: 'all', except: [] },
      { on: 'none', except: [] },
      ...single.flatMap((rank): GateSetting[] => [
        { on: 'all', except: [rank] },
        { on: 'none', except: [rank] },
      ]),
      { on: 'all', except: [single[0]!, single.at(-1)!] },
      { on: 'none', except: [single[1]!, single.at(-1)!] },
    ];
    const naive = await naiveGateLosses(runtime, batches, settings);
    const staged = await StagedLosses.open(runtime);
    expect(staged.sharesHead).toBe(true);
    const fast = await staged.losses(batches, settings);
    // Cut or whole, ONNX Runtime may fuse and order sums otherwise: float32 rounding of single losses around 5.
    naive.forEach((value, i) => {
      expect(Math.abs(fast[i]! - value)).toBeLessThan(1e-6);
    });
    // What scorers see: differences of losses, against their range over the ranks.
    const importance = (losses: Float64Array) =>
      single.map((_, k) => losses[2 + 2 * k]! - losses[0]! - losses[3 + 2 * k]!);
    const spread = Math.max(...importance(naive)) - Math.min(...importance(naive));
    importance(naive).forEach((value, k) => {
      expect(Math.abs(importance(fast)[k]! - value)).toBeLessThan(1e-5 * spread + 1e-6);
    });
    await runtime.close();
    opened.workspace.close();
  });
});

describe('gate gradients', () => {
  it('are the same in the runs of the host as in one run, and take turns with evaluation', async () => {
    const opened = openModel({ path: fixture('models/gpt2') });
    const { runtime, adapters } = openAdapted(opened, {
      adapter: fixture('traces/gpt2/initial'),
      device: 'cpu',
      threads: 1,
    });
    const dev = rows('token', 60, 12, 3);
    const host = new ReferenceHost({
      runtime,
      adapters,
      totalSteps: 1,
      stepsPerEpoch: 1,
      seed: 0,
      dev,
      padId: 1,
      batchSize: 64,
      nextHeldBack: () => [],
      onAllocation: () => {},
    });
    host.devBatch(dev.length);
    const whole = collate(dev, { padId: 1 });
    const { losses } = await runtime.evaluate(whole);
    const all = gatesOf(runtime, { on: 'all', except: [] });
    const expected = await runtime.gateGradients(whole, 1 / whole.labels, all);
    const inRuns = await host.gateGradients('all', 'dev');
    expect((await runtime.evaluate(whole)).losses).toEqual(losses);
    adapters.modules.forEach((module, m) => {
      const gate = adapters.parameter(module, 'gate');
      // The slope towards a rank's own strength; sums of float32 in another order.
      const slopes = Array.from(expected[m]!, (slope, i) => slope * gate[i]!);
      const largest = Math.max(...slopes.map(Math.abs));
      slopes.forEach((slope, i) => {
        expect(Math.abs(inRuns[m]![i]! - slope)).toBeLessThan(1e-5 * largest + 1e-9);
      });
    });
    await runtime.close();
    opened.workspace.close();
  });
});
