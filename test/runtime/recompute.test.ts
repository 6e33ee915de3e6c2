import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { gpt2Config, writeGpt2 } from '../../bench/models/gpt2.ts';
import { executionOrder } from '../../src/passes/executionOrder.ts';
import type { TokenBatch } from '../../src/runtime/feeds.ts';
import { activationBytes } from '../../src/runtime/memory.ts';
import { stepGraph } from '../../src/runtime/trainingGraph.ts';
import * as strategies from '../../src/strategies.ts';
import { type Assembly, assemble, openModel } from '../../src/training/assemble.ts';
import { tinyRun } from '../training/runs.ts';

function open(model: string, changes: { recompute: boolean; dropout?: number; strategy?: string }): Assembly {
  const config = tinyRun('unused', {
    model: { path: isAbsolute(model) ? model : `fixtures/models/${model}` },
    adapter: { strategy: changes.strategy ?? 'lora', dropout: changes.dropout ?? 0 },
    train: { recompute: changes.recompute },
  });
  return assemble(openModel(config.model), config, {
    strategies,
    length: { totalSteps: 100, stepsPerEpoch: 10 },
  });
}

/** Two rows of six tokens, the second padded; all predict their next token, or a row its class. */
function batchOf({ backbone }: Assembly): TokenBatch {
  const [size, length] = [2, 6];
  const attentionMask = new BigInt64Array(size * length).fill(1n).fill(0n, 10);
  const rows = backbone.kind === 'causal' ? [0, 1, 2, 3, 4, 6, 7, 8] : [0, 1];
  return {
    size,
    length,
    inputIds: BigInt64Array.from({ length: size * length }, (_, i) => BigInt((7 * i + 3) % 40)),
    attentionMask,
    positionIds: BigInt64Array.from({ length: size * length }, (_, i) => BigInt(i % length)),
    rows: BigInt64Array.from(rows, BigInt),
    targets: BigInt64Array.from(rows, (row) => BigInt(row % 2)),
  };
}

/** Gradients with every parameter away from zero: B and the gates too. */
async function gradients(run: Assembly, probability: number): Promise<Float32Array> {
  run.adapters.values.forEach((_, i) => {
    run.adapters.values[i] = 0.3 * Math.sin(i);
  });
  const dropout = { probability, seed: 0, step: 1, examples: [0, 1] };
  await run.runtime.step(batchOf(run), { loss: 1, penalty: 1 }, dropout);
  await run.close();
  return run.adapters.gradients;
}

describe('train.recompute', () => {
  it.each<[string, { dropout?: number; strategy?: string }]>([
    ['llama', {}],
    ['gpt2', { dropout: 0.3 }],
    ['gpt-neox', {}],
    ['bert', {}],
    ['gemma', { strategy: 'adalora' }],
  ])('%s: gives the gradients of the plain step', async (model, options) => {
    const plain = await gradients(open(model, { recompute: false, ...options }), options.dropout ?? 0);
    const again = await gradients(open(model, { recompute: true, ...options }), options.dropout ?? 0);
    const largest = plain.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    expect(largest).toBeGreaterThan(0.01);
    // The same operators on the same numbers; ONNX Runtime may fuse a forward pass that nothing else reads.
    const apart = plain.reduce((most, value, i) => Math.max(most, Math.abs(value - again[i]!)), 0);
    expect(apart / largest).toBeLessThan(1e-6);
  });

  it('keeps less than half of the activations of twelve blocks alive', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'onnx-alora-recompute-'));
    writeGpt2(folder, { ...gpt2Config, n_embd: 128, n_head: 2, vocab_size: 500 });
    const run = open(folder, { recompute: false });
    const { adapted } = run;
    const lengths: Record<string, number> = { batch_size: 16, sequence_length: 128, labels: 64 };
    const peak = (recompute: boolean) => activationBytes(stepGraph(adapted, { recompute }), lengths).live;
    expect(peak(true)).toBeLessThan(0.5 * peak(false));
    await run.close();
    rmSync(folder, { recursive: true });
  });

  it('writes nodes in the order in which ONNX Runtime runs them', async () => {
    const run = open('gpt2', { recompute: true });
    const { graph } = stepGraph(run.adapted, { recompute: true });
    await run.close();
    const order = executionOrder(graph);
    expect(order).toHaveLength(graph.nodes.length);
    const at = new Map(order.map((node, i) => [node, i]));
    for (const node of order)
      for (const value of node.inputs)
        if (value?.producer) expect(at.get(value.producer)!).toBeLessThan(at.get(node)!);
    // A block's gradients come before the backward pass of the block below it.
    const first = (name: RegExp) =>
      order.findIndex((node) => node.outputs.some((value) => name.test(value?.name ?? '')));
    expect(first(/h\.1\.attn\.c_attn\.lora_A\.gradient/)).toBeLessThan(
      first(/h\.0\.mlp\.c_proj\.lora_B\.gradient/),
    );
    expect(first(/h\.0\.mlp\.c_proj\.lora_B\.gradient/)).toBeLessThan(
      first(/h\.0\.attn\.c_attn\.lora_A\.gradient/),
    );
  });
});
