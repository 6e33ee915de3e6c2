import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { LinearModule } from '../../src/adapters/module.ts';
import { packAdapter, readRankCounts, splitFile, unpackAdapter } from '../../src/adapters/packAdapter.ts';
import { outputsOf, packingOf } from '../../src/adapters/packing.ts';
import { type LowRankWeights, readPeft } from '../../src/adapters/peft.ts';
import { partsOfFused } from '../../src/adapters/splitFused.ts';
import { collectRun } from '../../src/compare/collect.ts';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import { generateFrom } from '../../src/inference/generate.ts';
import { loadModel } from '../../src/inference/loadModel.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import { randomStream } from '../../src/random.ts';
import { readRun } from '../../src/report/read.ts';
import * as strategies from '../../src/strategies.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';
import { planRun } from '../../src/training/prepareRun.ts';
import { trainRun } from '../../src/training/train.ts';
import { compare } from '../backbones/harness.ts';
import { readBackbone } from '../backbones/reference.ts';
import fc from '../fastCheck.ts';
import { packLlama } from './packedLlama.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-split-'));
afterAll(() => rmSync(scratch, { recursive: true }));

describe('query, key and value of a fused projection train as PyTorch trains them', () => {
  it.each([
    ['gpt2', 'onnx/model.onnx'],
    ['gpt2', 'onnx/model_optimized.onnx'],
    ['bloom', 'onnx/model.onnx'],
    ['falcon', 'onnx/model.onnx'],
  ])('%s, %s', async (name, file) => {
    // The adapter is read from one LoRA of the fused layer, block by block (fixtures/backbones/split.py).
    const errors = await compare(readBackbone(name, 'split', 'split-adapter'), file, true);
    // As in test/backbones/parity.test.ts.
    expect(errors.loss).toBeLessThan(1e-5);
    expect(errors.gradient).toBeLessThan(1e-4);
  });
});

function run(model: string, output: string, changes: Readonly<Record<string, unknown>> = {}) {
  return resolveRunConfig(
    {
      model: { path: model, splitFused: true, ...(changes.model as object) },
      data: {
        task: 'text',
        train: 'fixtures/traces/text.jsonl',
        dev: 'fixtures/traces/dev.jsonl',
        maxLength: 32,
      },
      adapter: { strategy: 'lora', alpha: 8, ...(changes.adapter as object) },
      budget: changes.adapter ? {} : { rank: 2 },
      train: { steps: 6, batchSize: 4, learningRate: 3e-2, warmup: 0, evalEvery: 6 },
      runtime: { threads: 1 },
      output,
    },
    { strategies },
  );
}

describe.each(['phi3', 'gpt-neox', 'gpt2'])('%s', (name) => {
  const model = `fixtures/models/${name}`;
  const output = join(scratch, name);
  const adapter = join(output, 'adapter');

  it('trains split, saves one layer as PEFT has it, and is the same there, split again and merged', async () => {
    const config = run(model, output);
    const result = await trainRun(config, { strategies });
    const kinds = new Set(Object.keys(result.ranks).map((module) => module.split('.').at(-1)));
    expect([...kinds]).toEqual(expect.arrayContaining(['q_proj', 'k_proj', 'v_proj']));
    const saved = readPeft(adapter);
    expect(
      [...saved.modules.keys()].filter((module) => /\.[qkv]_proj$|gate_proj|up_proj$/.test(module)),
    ).toEqual(
      name === 'phi3'
        ? [expect.stringContaining('gate_up_proj'), expect.stringContaining('gate_up_proj')]
        : [],
    );
    expect(existsSync(join(adapter, splitFile))).toBe(true);
    const { modules } = await planRun({ ...config, output: join(scratch, 'unused') }, strategies);
    expect(collectRun(scratch, name, 0, modules).recounted!.adapter).toBe(result.budget.final.parameters);
    // One layer of three times the rank gives the loss that the parts gave: sums in another order.
    const fused = await evaluateRun(
      { ...config, model: { ...config.model, splitFused: false } },
      { adapter },
    );
    expect(Math.abs(fused.loss - result.dev!.last.loss)).toBeLessThan(1e-5);
    const again = run(model, join(scratch, `${name}-again`), {
      adapter: { alpha: undefined, initFrom: adapter },
    });
    const continued = await trainRun(again, { strategies });
    expect(continued.ranks).toEqual(result.ranks);
    expect(Math.abs(continued.dev!.before.loss - result.dev!.last.loss)).toBeLessThan(1e-5);
    const { verification } = await mergeModel({
      adapter,
      model,
      out: join(scratch, `${name}-merged`),
      threads: 1,
    });
    for (const { maxDelta } of verification) expect(maxDelta).toBeLessThan(1e-3);
  });
});

it('takes parts as targets, and the name of the fused layer for all of them', async () => {
  const ranks = async (targets: string[]) => {
    const output = join(scratch, `targets-${targets.join()}`);
    return Object.keys(
      (await trainRun(run('fixtures/models/gpt2', output, { model: { targets } }), { strategies })).ranks,
    );
  };
  expect(await ranks(['q_proj', 'v_proj'])).toEqual(
    [0, 1].flatMap((i) => ['q', 'v'].map((part) => `transformer.h.${i}.attn.${part}_proj`)),
  );
  expect(await ranks(['c_attn'])).toEqual(
    [0, 1].flatMap((i) => ['q', 'k', 'v'].map((part) => `transformer.h.${i}.attn.${part}_proj`)),
  );
});

it('refuses to split an adapter that acts on the parts together', async () => {
  const changes = { adapter: { alpha: undefined, initFrom: 'fixtures/peft/adapters/gpt2-lora' } };
  await expect(
    trainRun(run('fixtures/models/gpt2', join(scratch, 'refused'), changes), { strategies }),
  ).rejects.toMatchObject({ code: 'ADAPTER_NOT_SPLIT', exitCode: 3 });
});

it('refuses a layout that it does not know', async () => {
  const folder = join(scratch, 'unknown');
  cpSync('fixtures/models/gpt-neox', folder, { recursive: true });
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
  rmSync(join(folder, 'config.json'));
  const { writeFileSync } = await import('node:fs');
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, model_type: 'my_neox' }));
  await expect(trainRun(run(folder, join(scratch, 'refused')), { strategies })).rejects.toMatchObject({
    code: 'CONFIG_SPLIT_FUSED',
  });
});

const packedLlama = () => packLlama(join(scratch, 'packed-llama'));

describe('a Llama whose exporter packed query, key and value', () => {
  const adapterOf = (kind: string) => `fixtures/peft/adapters/llama-${kind}`;
  it('serves adapters that PEFT made of the separate layers', async () => {
    const model = await loadModel(packedLlama(), { threads: 1 });
    for (const kind of ['lora', 'pattern', 'rslora', 'adalora']) {
      const wanted = JSON.parse(readFileSync(join(adapterOf(kind), 'expected.json'), 'utf8')) as {
        batch: { input_ids: number[][]; attention_mask: number[][] };
        shape: [number, number, number];
        logits: number[];
      };
      const rows = wanted.batch.input_ids.map((row, i) =>
        row.slice(0, wanted.batch.attention_mask[i]!.filter(Boolean).length),
      );
      const logits = await model.logits(rows, { adapter: adapterOf(kind) });
      const [, length, width] = wanted.shape;
      logits.forEach(({ data }, row) => {
        const start = row * length * width;
        const worst = data.reduce(
          (most, value, i) => Math.max(most, Math.abs(value - wanted.logits[start + i]!)),
          0,
        );
        // As in test/inference/loadModel.test.ts: float32, logits of size 1 to 10.
        expect(worst, kind).toBeLessThan(2e-5);
      });
    }
    await model.close();
  });

  it('trains split as the plain file does, under the names of the separate layers', async () => {
    const packed = packedLlama();
    const [ours, plain] = [join(scratch, 'packed-run'), join(scratch, 'plain-run')];
    await trainRun(run(packed, ours), { strategies });
    await trainRun(run('fixtures/models/llama', plain), { strategies });
    const [a, b] = [readPeft(join(ours, 'adapter')), readPeft(join(plain, 'adapter'))];
    expect([...a.modules.keys()].sort()).toEqual([...b.modules.keys()].sort());
    for (const [name, weights] of a.modules)
      weights.B.forEach((value, i) => {
        // Six steps of Adam, which divides by small gradients: the same up to float32.
        expect(Math.abs(value - b.modules.get(name)!.B[i]!)).toBeLessThan(1e-3);
      });
    const adapter = join(ours, 'adapter');
    const out = join(scratch, 'packed-merged');
    const merged = await mergeModel({ adapter, model: packed, out, threads: 1 });
    expect(merged.verification[0]!.maxDelta).toBeLessThan(1e-3);
    const options = { prompt: 'the cat', maxNewTokens: 8, threads: 1 };
    const beside = await generateFrom({ model: packed, adapter, ...options });
    expect((await generateFrom({ model: out, ...options })).text).toBe(beside.text);
    expect((await generateFrom({ model: 'fixtures/models/llama', adapter, ...options })).text).toBe(
      beside.text,
    );
  });
});

describe('a Llama whose exporter packed query, key and value, adapted as one layer', () => {
  it('saves the separate layers, which share A, and reads them as one again', async () => {
    const packed = packedLlama();
    const output = join(scratch, 'as-one');
    const whole = run(packed, output, { model: { splitFused: false } });
    const result = await trainRun(whole, { strategies });
    const names = Object.keys(result.ranks);
    expect(names).toContain('model.layers.0.self_attn.qkv_proj');
    const adapter = join(output, 'adapter');
    const saved = readPeft(adapter).modules;
    expect([...saved.keys()].filter((name) => /attn\.(?!o_proj)/.test(name))).toEqual(
      [0, 1].flatMap((i) => ['q', 'k', 'v'].map((part) => `model.layers.${i}.self_attn.${part}_proj`)),
    );
    expect(saved.get('model.layers.0.self_attn.k_proj')!.A).toEqual(
      saved.get('model.layers.0.self_attn.q_proj')!.A,
    );
    // The original model, which PEFT adapts, has the layers apart. Sums in another order.
    const original = run('fixtures/models/llama', 'unused', { model: { splitFused: false } });
    const there = await evaluateRun(original, { adapter });
    expect(Math.abs(there.loss - result.dev!.last.loss)).toBeLessThan(1e-5);

    const again = { adapter: { alpha: undefined, initFrom: adapter }, model: { splitFused: false } };
    const continued = await trainRun(run(packed, join(scratch, 'as-one-again'), again), { strategies });
    expect(continued.ranks).toEqual(result.ranks);
    expect(continued.dev!.before.loss).toBe(result.dev!.last.loss);

    const modules = (await planRun({ ...whole, output: join(scratch, 'unused') }, strategies)).modules;
    const { recounted } = collectRun(scratch, 'as-one', 0, modules);
    expect(recounted).toEqual({
      adapter: result.budget.final.parameters,
      best: result.budget.final.parameters,
    });
    const read = await readRun(output);
    expect(read.modules.map(({ name, cost, saved }) => [name, cost, saved]).sort()).toEqual(
      modules.map(({ name, costOfOneRank }) => [name, costOfOneRank, result.ranks[name]]).sort(),
    );
  });
});

const fused = (name: string, out: number) => ({ name, in: 6, out }) as LinearModule;

describe('packing', () => {
  const layouts = [
    ['h.0.attn.c_attn', 24, { model_type: 'gpt2' }],
    [
      'layers.0.self_attn.qkv_proj',
      16,
      { model_type: 'phi3', num_attention_heads: 4, num_key_value_heads: 2, hidden_size: 8 },
    ],
    ['layers.0.mlp.gate_up_proj', 10, { model_type: 'phi3' }],
    [
      'layers.0.attention.query_key_value',
      24,
      { model_type: 'gpt_neox', num_attention_heads: 2, hidden_size: 8 },
    ],
    [
      'h.0.self_attention.query_key_value',
      12,
      { model_type: 'falcon', multi_query: true, num_attention_heads: 4, hidden_size: 8 },
    ],
    [
      'h.0.self_attention.query_key_value',
      32,
      {
        model_type: 'falcon',
        new_decoder_architecture: true,
        num_kv_heads: 2,
        num_attention_heads: 4,
        hidden_size: 16,
      },
    ],
  ] as const;

  it.each(layouts)('the parts of %s with %i outputs are all of them, each once', (name, out, config) => {
    const packing = packingOf(fused(name, out), config)!;
    const all = packing.parts.flatMap((_, i) => [...outputsOf(packing, i)]);
    expect(all.sort((a, b) => a - b)).toEqual(Array.from({ length: out }, (_, i) => i));
  });

  it('packs and unpacks adapters without loss', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...layouts),
        fc.array(fc.nat(3), { minLength: 3, maxLength: 3 }),
        fc.integer(),
        ([name, out, config], ranks, seed) => {
          const whole = fused(name, out);
          const parts = partsOfFused([whole], config);
          const random = randomStream(seed, 'pack');
          const normal = (count: number) => Float32Array.from({ length: count }, () => random.normal());
          const modules = new Map(
            parts.map((part, i): [string, LowRankWeights] => {
              const rank = ranks[i]!;
              const factors = { A: normal(rank * 6), B: normal(rank * part.out), gate: normal(rank) };
              return [part.name, { rank, in: 6, out: part.out, scale: 2, ...factors }];
            }),
          );
          const given = { ...readPeft('fixtures/peft/adapters/gpt2-lora'), modules };
          const packed = packAdapter(given, [whole], config);
          expect([...packed.modules.keys()]).toEqual([name]);
          expect(packed.modules.get(name)!.rank).toBe(ranks.slice(0, parts.length).reduce((a, b) => a + b));
          expect(unpackAdapter(packed, parts).modules).toEqual(modules);
        },
      ),
    );
  });

  it('reads how ranks without effect were dealt', () => {
    expect(readRankCounts('fixtures/peft/adapters/gpt2-lora')).toBeUndefined();
    const whole = fused('h.0.attn.c_attn', 24);
    const zero = {
      rank: 3,
      in: 6,
      out: 24,
      scale: 1,
      A: new Float32Array(18),
      B: new Float32Array(72),
      gate: new Float32Array(3),
    };
    const given = { ...readPeft('fixtures/peft/adapters/gpt2-lora'), modules: new Map([[whole.name, zero]]) };
    const counts = { [whole.name]: { 'h.0.attn.q_proj': 1, 'h.0.attn.v_proj': 2 } };
    const { modules } = unpackAdapter(given, partsOfFused([whole], { model_type: 'gpt2' }), counts);
    expect([...modules.values()].map(({ rank }) => rank)).toEqual([1, 0, 2]);
  });
});
