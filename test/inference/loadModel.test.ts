import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readPeft } from '../../src/adapters/peft.ts';
import { writePeft } from '../../src/adapters/peftWriter.ts';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { generateFrom } from '../../src/inference/generate.ts';
import { loadModel } from '../../src/inference/loadModel.ts';
import type { Logits, ServedModel } from '../../src/inference/requests.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { writeModel } from '../../src/onnx/encode.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { keepOutputs } from '../../src/passes/prune.ts';
import { openModel } from '../../src/training/assemble.ts';
import { openAdapted } from '../../src/training/openAdapted.ts';
import { watchSessions } from '../runtime/openSessions.ts';

const opened = new Map<string, Promise<ServedModel>>();
afterAll(async () => {
  for (const model of opened.values()) await (await model).close();
});
function open(name: string, options: Parameters<typeof loadModel>[1] = {}): Promise<ServedModel> {
  const key = name + JSON.stringify(options);
  const model = opened.get(key) ?? loadModel(`fixtures/models/${name}`, { threads: 1, ...options });
  opened.set(key, model);
  return model;
}

/** Made by fixtures/peft/make_adapters.py: logits of PEFT on a padded batch. */
interface Expected {
  readonly batch: { readonly input_ids: number[][]; readonly attention_mask: number[][] };
  readonly shape: readonly number[];
  readonly logits: readonly number[];
}
const adapter = (name: string) => `fixtures/peft/adapters/${name}`;
const expected = (name: string): Expected =>
  JSON.parse(readFileSync(`${adapter(name)}/expected.json`, 'utf8'));
const tokensOf = ({ batch }: Expected) =>
  batch.input_ids.map((row, i) => row.slice(0, batch.attention_mask[i]!.filter(Boolean).length));

/** Largest difference to PEFT's logits at the tokens of each row. */
function distance(logits: readonly Logits[], { shape, logits: wanted }: Expected): number {
  const [, length, width] = shape.length === 3 ? shape : [0, 1, shape[1]];
  let most = 0;
  logits.forEach(({ data }, row) => {
    data.forEach((value, i) => {
      most = Math.max(most, Math.abs(value - wanted[row * length! * width! + i]!));
    });
  });
  return most;
}

const difference = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);

/** Two implementations of a two-layer model in float32 with logits of size 1 to 10. */
const tolerance = 2e-5;

describe('loadModel', () => {
  it.each([
    ['gpt2', ['gpt2-lora', 'gpt2-pattern', 'gpt2-rslora', 'gpt2-adalora']],
    ['llama', ['llama-lora', 'llama-pattern', 'llama-rslora', 'llama-adalora']],
    ['bert', ['bert-head']],
  ])(
    "%s: PEFT's folders as they are, switched in one session, give PEFT's logits",
    async (name, adapters) => {
      const model = await open(name);
      for (const folder of [...adapters, adapters[0]!]) {
        model.use(adapter(folder));
        const wanted = expected(folder);
        expect(distance(await model.logits(tokensOf(wanted)), wanted), folder).toBeLessThan(tolerance);
      }
    },
  );

  it('searches beams for each of several prompts of one length, and tells the text of a single prompt', async () => {
    const model = await open('presidents');
    const told: string[] = [];
    const options = { maxNewTokens: 8, onText: (text: string) => told.push(text) };
    const prompts = ['We the people', 'To the nation'];
    const alone = [];
    for (const prompt of prompts) alone.push((await model.generate(prompt, { ...options, beams: 4 })).text);
    const together = await model.generate(prompts, { ...options, beams: 4 });
    expect(together.map(({ text }) => text)).toEqual(alone);
    const greedy = await model.generate(prompts, options);
    expect(greedy.map(({ text }) => text)).not.toEqual(alone);
    expect(told).toEqual([]);
    const { text } = await model.generate(prompts[0]!, options);
    expect(told.join('')).toBe(text);
  });

  it.each([
    ['gpt2', [adapter('gpt2-lora'), null, adapter('gpt2-pattern'), adapter('gpt2-adalora')]],
    ['llama', [null, adapter('llama-adalora'), adapter('llama-lora'), adapter('llama-pattern')]],
    ['llama-kv', [null, adapter('llama-adalora'), adapter('llama-lora'), adapter('llama-rslora')]],
  ])('%s: an adapter for each example of a batch gives what a request each gives', async (name, adapters) => {
    const model = await open(name);
    const rows = [
      [5, 9, 2, 44, 17],
      [7, 7, 31],
      [8, 3, 60, 61, 62, 63, 9],
      [12, 80],
    ];
    const together = await model.logits(rows, { adapter: adapters });
    for (const [i, row] of rows.entries()) {
      const [alone] = await model.logits([row], { adapter: adapters[i]! });
      expect(together[i]!.dims).toEqual(alone!.dims);
      // The same products, blocked differently.
      expect(difference(together[i]!.data, alone!.data)).toBeLessThan(tolerance);
    }
    const [base, other] = await model.logits([rows[0]!, rows[0]!], { adapter: [null, adapters[2]!] });
    expect(difference(base!.data, other!.data)).toBeGreaterThan(0.01);
  });

  it.each([
    ['smollm', 'decoder_model_merged.onnx'],
    ['smollm', 'model_genai_q4.onnx'],
    ['qwen3', 'model_opset23.onnx'],
    ['albert', 'model.onnx'],
    ['deberta-v2', 'model.onnx'],
  ])('%s, %s: mixes adapters whatever the layout', async (name, file) => {
    const folder = `fixtures/backbones/${name}`;
    const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-layouts-'));
    try {
      cpSync(folder, scratch, { recursive: true });
      for (const tokenizer of ['tokenizer.json', 'tokenizer_config.json'])
        cpSync(join('fixtures/models/llama', tokenizer), join(scratch, tokenizer));
      const model = await loadModel(scratch, { threads: 1, file: join('onnx', file) });
      const rows = [
        [5, 9, 2, 44],
        [7, 7, 31, 12],
      ];
      const own = join(scratch, 'adapter');
      const mixed = await model.logits(rows, { adapter: [own, null] });
      const [adapted, base] = [
        await model.logits(rows, { adapter: own }),
        await model.logits(rows, { adapter: null }),
      ];
      // The same products, blocked differently.
      expect(difference(mixed[0]!.data, adapted[0]!.data)).toBeLessThan(tolerance);
      expect(difference(mixed[1]!.data, base[1]!.data)).toBeLessThan(tolerance);
      expect(difference(adapted[0]!.data, base[0]!.data)).toBeGreaterThan(0.01);
      await model.close();
    } finally {
      rmSync(scratch, { recursive: true });
    }
  });

  it('gives each example of a batch a head of its own', async () => {
    const model = await open('bert');
    const texts = ['one two three', 'four'];
    const mixed = await model.classify(texts, { adapter: [adapter('bert-head'), null] });
    const own = await model.classify(texts, { adapter: adapter('bert-head') });
    const base = await model.classify(texts, { adapter: null });
    // Probabilities from logits of size 1.
    expect(Math.abs(mixed[0]!.score - own[0]!.score)).toBeLessThan(1e-5);
    expect(Math.abs(mixed[1]!.score - base[1]!.score)).toBeLessThan(1e-5);
    expect(Math.abs(base[0]!.score - own[0]!.score)).toBeGreaterThan(1e-3);
    expect(mixed[0]!.scores.reduce((sum, { score }) => sum + score, 0)).toBeCloseTo(1, 6);
    expect(mixed[0]!.scores.map(({ label }) => label)).toContain(mixed[0]!.label);
  });

  it.each(['llama', 'llama-kv'])('%s: prompts of a batch go on as they would alone', async (name) => {
    const model = await open(name);
    const prompts = ['the cat sat', 'a dog', 'the man ran'];
    const adapters = [adapter('llama-lora'), null, adapter('llama-pattern')];
    const options = { maxNewTokens: 8 };
    const together = await model.generate(prompts, { ...options, adapter: adapters });
    for (const [i, prompt] of prompts.entries()) {
      const single = await generateFrom({
        model: `fixtures/models/${name}`,
        prompt,
        adapter: adapters[i] ?? undefined,
        threads: 1,
        ...options,
      });
      expect(together[i]!.text).toBe(single.text);
      const sampled = { ...options, temperature: 1, seed: 3 };
      const [one] = await model.generate([prompt, prompt], {
        ...sampled,
        adapter: [adapters[i]!, adapters[1]!],
      });
      expect(one!.text).toBe((await model.generate(prompt, { ...sampled, adapter: adapters[i]! })).text);
    }
  });

  it('puts the classifier of an adapter on an encoder without a head', async () => {
    const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-encoder-'));
    const folder = join(scratch, 'model');
    try {
      // BERT's pooled output in place of its logits: an export without a head.
      cpSync('fixtures/models/bert', folder, { recursive: true });
      const bare = readModel(join(folder, 'onnx/model.onnx'));
      const head = findLinearModules(bare, { model_type: 'bert' }).find(({ role }) => role === 'head')!;
      const width = head.in;
      head.input.name = 'sentence_embedding';
      bare.graph.outputs = [head.input];
      keepOutputs(bare.graph, ['sentence_embedding']);
      writeModel(bare, join(folder, 'onnx/model.onnx'));
      const weight = Float32Array.from({ length: 2 * width }, (_, i) => Math.sin(i));
      const saved = new Map([
        ['classifier.weight', Tensor.float32(weight, [2, width])],
        ['classifier.bias', Tensor.float32(Float32Array.of(0.5, -0.5), [2])],
      ]);
      const { modules, ...rest } = readPeft(adapter('bert-head'));
      const lora = new Map([...modules].map(([name, factors]) => [name.replace(/^bert\./, ''), factors]));
      writePeft(join(scratch, 'adapter'), { ...rest, modules: lora, saved, modulesToSave: ['classifier'] });
      const model = await loadModel(folder, { threads: 1 });
      await expect(model.classify(['one two'])).rejects.toMatchObject({ code: 'MODEL_NO_HEAD' });
      const opened = openModel({ path: folder });
      const { runtime } = openAdapted(opened, {
        device: 'cpu',
        threads: 1,
        adapter: join(scratch, 'adapter'),
        classifier: { classes: 2, pooling: 'none' },
      });
      const ids = [5, 9, 2, 44];
      const wanted = await runtime.logits({
        size: 1,
        length: 4,
        inputIds: BigInt64Array.from(ids, BigInt),
        attentionMask: new BigInt64Array(4).fill(1n),
        positionIds: BigInt64Array.of(0n, 1n, 2n, 3n),
        rows: BigInt64Array.of(0n),
        targets: BigInt64Array.of(0n),
      });
      const [ours] = await model.logits([ids], { adapter: join(scratch, 'adapter') });
      expect(difference(ours!.data, wanted)).toBeLessThan(tolerance);
      await runtime.close();
      opened.workspace.close();
      await model.close();
    } finally {
      rmSync(scratch, { recursive: true });
    }
  });

  it('switches in less than 5 ms, with the session that is open', async () => {
    const model = await open('llama');
    const folders = [adapter('llama-lora'), null, adapter('llama-pattern')];
    for (const folder of folders) model.use(folder);
    const watch = watchSessions();
    const times: number[] = [];
    for (let i = 0; i < 301; i++) {
      const begun = performance.now();
      model.use(folders[i % 3]!);
      times.push(performance.now() - begun);
    }
    watch.stop();
    expect(watch.opened).toBe(0);
    // The median: other work on the machine may stop a few of them for as long as it likes.
    expect(times.sort((a, b) => a - b)[150]).toBeLessThan(5);
  });

  it('reads an adapter again once it is forgotten', async () => {
    const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-serve-'));
    const folder = join(scratch, 'adapter');
    const model = await open('llama');
    const rows = [[5, 9, 2]];
    try {
      cpSync(adapter('llama-lora'), folder, { recursive: true });
      const [before] = await model.logits(rows, { adapter: folder });
      rmSync(folder, { recursive: true });
      cpSync(adapter('llama-pattern'), folder, { recursive: true });
      expect((await model.logits(rows, { adapter: folder }))[0]!.data).toEqual(before!.data);
      model.forget(folder);
      const [after] = await model.logits(rows, { adapter: folder });
      expect(after!.data).toEqual((await model.logits(rows, { adapter: adapter('llama-pattern') }))[0]!.data);
    } finally {
      rmSync(scratch, { recursive: true });
    }
  });

  it.each([
    ['an adapter of another model', {}, { adapter: adapter('gpt2-lora') }, 'MODEL_NO_SITE'],
    [
      'a layer without a site',
      { targets: ['q_proj'] },
      { adapter: adapter('llama-pattern') },
      'MODEL_NO_SITE',
    ],
    ['too few adapters', {}, { adapter: [null] }, 'ADAPTER_COUNT'],
    ['no adapter', {}, { adapter: 'nowhere' }, 'MODEL_ADAPTER_NOT_FOUND'],
  ])('refuses %s', async (_, options, request, code) => {
    const model = await open('llama', options);
    await expect(model.logits([[1], [2]], request)).rejects.toMatchObject({ code });
  });

  it('says what a model cannot do', async () => {
    const bert = await open('bert');
    const llama = await open('llama');
    await expect(llama.classify(['text'])).rejects.toMatchObject({ code: 'MODEL_NOT_CLASSIFIER' });
    await expect(bert.logits(['text'])).resolves.toHaveLength(1);
  });
});
