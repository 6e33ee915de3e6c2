import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type LowRankWeights, type PeftAdapter, readPeft } from '../../src/adapters/peft.ts';
import { writePeft } from '../../src/adapters/peftWriter.ts';
import { readSafetensors, writeSafetensors } from '../../src/adapters/safetensors.ts';
import { AloraError } from '../../src/errors.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import fc from '../fastCheck.ts';
import { configOf, delta, largestDifference, logitsOf, withAdapter } from './original.ts';

const adapters = 'fixtures/peft/adapters';
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-peft-'));
afterAll(() => rmSync(scratch, { recursive: true }));

describe('readPeft', () => {
  it.each(readdirSync(adapters))('%s: the same logits as in PEFT', async (name) => {
    const expected = JSON.parse(readFileSync(`${adapters}/${name}/expected.json`, 'utf8'));
    const folder = `fixtures/models/${expected.model}`;
    const adapter = readPeft(`${adapters}/${name}`);
    const model = withAdapter(`${folder}/onnx/model.onnx`, configOf(folder), adapter);
    const logits = await logitsOf(model, expected.batch);
    // Logits of size 1 to 10 in float32 through two layers; the stored ones are rounded to six decimals.
    expect(largestDifference(logits, expected.logits)).toBeLessThan(2e-5);
  });

  it('tells what the folder holds', () => {
    const bert = readPeft(`${adapters}/bert-head`);
    expect(bert).toMatchObject({
      peftType: 'LORA',
      taskType: 'SEQ_CLS',
      modulesToSave: ['classifier', 'score'],
    });
    expect([...bert.saved.keys()].sort()).toEqual(['classifier.bias', 'classifier.weight']);
    const llama = readPeft(`${adapters}/llama-adalora`);
    const ranks = [...llama.modules.values()].map(({ rank }) => rank);
    expect(Math.min(...ranks)).toBe(0);
    expect(llama.modules.values().next().value!.scale).toBe(12 / (4 + 1e-5));
  });
});

const damage: [string, (folder: string) => void, string][] = [
  ['no config', (f) => rmSync(join(f, 'adapter_config.json')), 'MODEL_ADAPTER_NOT_FOUND'],
  ['no weights', (f) => rmSync(join(f, 'adapter_model.safetensors')), 'MODEL_ADAPTER_NOT_FOUND'],
  [
    'a config that is not JSON',
    (f) => writeFileSync(join(f, 'adapter_config.json'), '{'),
    'MODEL_ADAPTER_DAMAGED',
  ],
  [
    'notes beside it that are not JSON',
    (f) => writeFileSync(join(f, 'classifier.json'), '{'),
    'MODEL_ADAPTER_DAMAGED',
  ],
  ['weights cut short', (f) => cut(f, 0.7), 'MODEL_SAFETENSORS'],
  ['a cut header', (f) => cut(f, 0.01), 'MODEL_SAFETENSORS'],
  ['an empty file', (f) => cut(f, 0), 'MODEL_SAFETENSORS'],
  ['another rank than the tensors', (f) => edit(f, { r: 5 }), 'MODEL_ADAPTER_DAMAGED'],
  ['a lost tensor', (f) => change(f, (t) => t.delete(firstKey(t))), 'MODEL_ADAPTER_DAMAGED'],
  ['NaN', (f) => change(f, (t) => t.set(firstKey(t), nan(t.get(firstKey(t))!))), 'MODEL_ADAPTER_DAMAGED'],
  ['DoRA', (f) => edit(f, { use_dora: true }), 'MODEL_ADAPTER_UNSUPPORTED'],
  ['biases', (f) => edit(f, { bias: 'all' }), 'MODEL_ADAPTER_UNSUPPORTED'],
  ['PiSSA', (f) => edit(f, { init_lora_weights: 'pissa_niter_4' }), 'MODEL_ADAPTER_UNSUPPORTED'],
  ['Activated LoRA', (f) => edit(f, { alora_invocation_tokens: [1, 2] }), 'MODEL_ADAPTER_UNSUPPORTED'],
  ['prefix tuning', (f) => edit(f, { peft_type: 'PREFIX_TUNING' }), 'MODEL_ADAPTER_UNSUPPORTED'],
  [
    'an embedding',
    (f) => change(f, (t) => t.set('base_model.model.wte.weight', Tensor.float32([1]))),
    'MODEL_ADAPTER_UNSUPPORTED',
  ],
];

describe('readPeft refuses', () => {
  it('the folder of a run, and names the adapter in it', () => {
    const run = join(scratch, 'a-run');
    cpSync(`${adapters}/llama-lora`, join(run, 'best'), { recursive: true });
    const { code, details } = caught(() => readPeft(run));
    expect([code, details.didYouMean]).toEqual(['MODEL_ADAPTER_NOT_FOUND', join(run, 'best')]);
  });

  it.each(damage)('%s', (name, act, code) => {
    const folder = join(scratch, name.replaceAll(' ', '-'));
    cpSync(`${adapters}/llama-lora`, folder, { recursive: true });
    act(folder);
    const error = caught(() => readPeft(folder));
    expect(error).toMatchObject({ kind: 'model', code, exitCode: 5 });
    expect(error.details.fix).toBeTruthy();
    expect(error.details.where).toContain(folder);
  });
});

const weights = (values: fc.Arbitrary<number>) =>
  fc
    .record({ rank: fc.nat(4), in: fc.integer({ min: 1, max: 4 }), out: fc.integer({ min: 1, max: 4 }) })
    .chain(({ rank, in: width, out }) => {
      const numbers = (count: number) =>
        fc.array(values, { minLength: count, maxLength: count }).map((list) => Float32Array.from(list));
      return fc.record({
        rank: fc.constant(rank),
        in: fc.constant(width),
        out: fc.constant(out),
        scale: fc.constantFrom(0.25, 1, 2, 12 / (4 + 1e-5)),
        A: numbers(rank * width),
        B: numbers(rank * out),
        gate: numbers(rank),
      });
    });

describe('writePeft', () => {
  // Small dyadic numbers, so that products are exact and the comparison can be.
  const exact = weights(fc.integer({ min: -8, max: 8 }).map((n) => n / 4));

  it('read back, every module has the same product; modules without ranks are gone', () => {
    let serial = 0;
    fc.assert(
      fc.property(fc.array(exact, { minLength: 1, maxLength: 5 }), (list) => {
        const names = ['dense', 'model.layers.0.a.dense', 'model.layers.0.b', 'model.layers.10.b', 'h.0.b'];
        const modules = new Map(list.map((module, i) => [names[i]!, module]));
        const folder = join(scratch, `property-${serial++}`);
        writePeft(folder, adapterOf(modules));
        const back = readPeft(folder);
        const live = [...modules].filter(([, module]) => module.rank > 0);
        if (live.length > 0) expect([...back.modules.keys()]).toEqual(live.map(([name]) => name));
        for (const [name, module] of back.modules) {
          const original = modules.get(name)!;
          // alpha = s r and back: two roundings of a float64.
          expect(module.scale).toBeCloseTo(original.scale, 12);
          const unscaled = [module, original].map((weights) => delta({ ...weights, scale: 1 }));
          expect(largestDifference(unscaled[0]!, unscaled[1]!)).toBe(0);
        }
        const { r, lora_alpha: alpha } = back.config as { r: number; lora_alpha: number };
        if (live.length > 0) expect(live.some(([, m]) => Math.abs(m.scale - alpha / r) < 1e-9)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it('replaces a folder whole, and one that a dying process left half replaced comes back', () => {
    const folder = join(scratch, 'replaced');
    const adapter = readPeft(`${adapters}/llama-lora`);
    writePeft(folder, adapter);
    const before = readFileSync(join(folder, 'adapter_model.safetensors'));
    const failing = () => {
      throw new Error('the disk is full');
    };
    expect(caught(() => writePeft(folder, adapter, { beside: failing }))).toMatchObject({
      kind: 'storage',
      exitCode: 7,
    });
    expect(readFileSync(join(folder, 'adapter_model.safetensors'))).toEqual(before);
    cpSync(folder, `${folder}.old.tmp`, { recursive: true });
    rmSync(folder, { recursive: true });
    expect(readPeft(folder).modules.size).toBe(adapter.modules.size);
    writePeft(folder, adapter, { beside: (partial) => writeFileSync(join(partial, 'state.bin'), 'x') });
    expect(readdirSync(folder).sort()).toEqual([
      'adapter_config.json',
      'adapter_model.safetensors',
      'state.bin',
    ]);
    expect(existsSync(`${folder}.old.tmp`) || existsSync(`${folder}.tmp`)).toBe(false);
  });

  it('drops a classification task type that PEFT could not load without its head', () => {
    const bert = readPeft(`${adapters}/bert-head`);
    const folder = join(scratch, 'task');
    writePeft(folder, bert);
    expect(readPeft(folder).taskType).toBe('SEQ_CLS');
    writePeft(folder, { ...bert, saved: new Map(), modulesToSave: [] });
    expect(readPeft(folder).taskType).toBe(null);
  });
});

describe('safetensors', () => {
  it('reads back what it wrote, of every type, sizes of zero included', () => {
    const path = join(scratch, 'all.safetensors');
    const tensors = new Map([
      ['a', Tensor.float32([1, -2.5, 3], [3])],
      ['b', Tensor.of('float16', [0.5, 2], [2, 1])],
      ['c', Tensor.of('bfloat16', [0.5], [])],
      ['d', Tensor.int64([-7, 2 ** 40], [2])],
      ['e', Tensor.float32([], [0, 4])],
      ['f', Tensor.bool([true, false, true])],
    ]);
    writeSafetensors(path, tensors, { format: 'pt', note: 'ü' });
    const back = readSafetensors(path);
    expect(back.metadata).toEqual(
      new Map([
        ['format', 'pt'],
        ['note', 'ü'],
      ]),
    );
    for (const [name, tensor] of tensors) {
      expect(back.tensors.get(name)).toMatchObject({ dtype: tensor.dtype, dims: tensor.dims });
      expect(back.tensors.get(name)!.toNumbers()).toEqual(tensor.toNumbers());
    }
  });

  it.each([
    ['overlapping tensors', { a: [0, 8], b: [4, 12] }, 12],
    ['a hole', { a: [0, 8], b: [12, 20] }, 20],
    ['bytes that no tensor uses', { a: [0, 8] }, 12],
    ['an end beyond the file', { a: [0, 8], b: [8, 16] }, 12],
  ])('refuses %s', (name, spans, size) => {
    const header = Object.fromEntries(
      Object.entries(spans).map(([key, data_offsets]) => [key, { dtype: 'F32', shape: [2], data_offsets }]),
    );
    const text = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    const path = join(scratch, name.replaceAll(' ', '-'));
    writeFileSync(path, Buffer.concat([length, text, Buffer.alloc(size)]));
    expect(caught(() => readSafetensors(path))).toMatchObject({ kind: 'model', code: 'MODEL_SAFETENSORS' });
  });
});

function adapterOf(modules: ReadonlyMap<string, LowRankWeights>): PeftAdapter {
  return {
    modules,
    saved: new Map(),
    modulesToSave: [],
    baseModel: null,
    taskType: 'CAUSAL_LM',
    fanInFanOut: false,
  };
}

function caught(run: () => unknown): AloraError {
  try {
    run();
  } catch (error) {
    if (error instanceof AloraError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

function cut(folder: string, share: number): void {
  const path = join(folder, 'adapter_model.safetensors');
  const bytes = readFileSync(path);
  writeFileSync(path, bytes.subarray(0, Math.floor(bytes.length * share)));
}

function edit(folder: string, changes: Record<string, unknown>): void {
  const path = join(folder, 'adapter_config.json');
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...changes }));
}

function change(folder: string, act: (tensors: Map<string, Tensor>) => void): void {
  const path = join(folder, 'adapter_model.safetensors');
  const tensors = new Map(readSafetensors(path).tensors);
  act(tensors);
  writeSafetensors(path, tensors);
}

const firstKey = (tensors: ReadonlyMap<string, Tensor>) => tensors.keys().next().value as string;
const nan = (tensor: Tensor) => Tensor.float32(new Float32Array(tensor.size).fill(Number.NaN), tensor.dims);
