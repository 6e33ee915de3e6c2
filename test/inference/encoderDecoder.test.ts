import { cpSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import { generateFrom } from '../../src/inference/generate.ts';
import { loadModel } from '../../src/inference/loadModel.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import { findModel } from '../../src/runtime/modelDirectory.ts';
import { openWorkspace } from '../../src/runtime/workspace.ts';
import * as strategies from '../../src/strategies.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';
import { openDecoder } from '../../src/training/openDecoder.ts';
import type { RunResult } from '../../src/training/reporter.ts';
import { trainRun } from '../../src/training/train.ts';
import { casesOf, expectTransformersText } from '../runtime/transformersText.ts';
import { importXenova } from '../xenova.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-encoder-decoder-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const names = ['t5', 'bart'] as const;
const files = ['onnx/decoder_model.onnx', 'onnx/decoder_model_merged.onnx'] as const;

const cases = casesOf('encoder-decoder.json');

describe('text of an encoder-decoder is what transformers gives', () => {
  it.each(names.flatMap((name) => files.map((file) => [name, file] as const)))(
    '%s, %s',
    async (name, file) => {
      const workspace = openWorkspace();
      const directory = findModel(`fixtures/backbones/${name}`, { file });
      const runtime = { device: 'cpu', threads: 1 } as const;
      const { decoder, close } = await openDecoder(directory, undefined, workspace, runtime);
      for (const one of cases.filter(({ model }) => model === name))
        await expectTransformersText(decoder, one);
      await close();
      workspace.close();
    },
  );
});

const rows = join(scratch, 'rows.jsonl');
writeFileSync(
  rows,
  ['cat', 'dog', 'cow', 'hen', 'fox', 'owl', 'bee', 'ant']
    .map((word) => JSON.stringify({ prompt: `one ${word}`, completion: ` two ${word}s` }))
    .join('\n'),
);

describe.each(names)('%s', (name) => {
  const model = join(scratch, name);
  const output = join(scratch, `${name}-run`);
  const adapter = join(output, 'adapter');
  const out = join(scratch, `${name}-merged`);
  const config = resolveRunConfig(
    {
      model: { path: model },
      data: { task: 'prompt', train: rows, dev: rows, maxLength: 32, shuffle: false },
      adapter: { strategy: 'lora' },
      budget: { rank: 4 },
      train: { steps: 40, batchSize: 8, learningRate: 3e-2, evalEvery: 40, warmup: 0 },
      runtime: { threads: 1 },
      output,
    },
    { strategies },
  );
  let result: RunResult;
  beforeAll(async () => {
    cpSync(join('fixtures/backbones', name), model, { recursive: true });
    for (const file of ['tokenizer.json', 'tokenizer_config.json'])
      cpSync(join('fixtures/models/roberta', file), join(model, file));
    result = await trainRun(config, { strategies });
    await mergeModel({ adapter, model, out, threads: 1 });
  });
  const options = { prompt: 'one cat', maxNewTokens: 12, threads: 1 };

  it('writes a sample before and after training', () => {
    expect(result.samples?.map(({ when }) => when)).toEqual(['before', 'after']);
    expect(result.samples?.[1]?.text).not.toBe(result.samples?.[0]?.text);
    expect(result.samples?.[1]?.text).toContain('two');
  });

  it.each([
    ['greedy', {}],
    ['sampling', { temperature: 0.9, seed: 7 }],
    ['beams', { beams: 3 }],
  ])('%s: the merged model says what model and adapter say, with a cache and without', async (_, how) => {
    const base = await generateFrom({ model, ...options, ...how });
    const texts = [];
    for (const file of files) {
      texts.push((await generateFrom({ model, adapter, file, ...options, ...how })).text);
      texts.push((await generateFrom({ model: out, file, ...options, ...how })).text);
    }
    expect(new Set(texts).size).toBe(1);
    expect(texts[0]).not.toBe(base.text);
  });

  it('loadModel gives the same, for an adapter each', async () => {
    const prompts = ['one cat', 'one dog'];
    for (const file of files) {
      const served = await loadModel(model, { file, threads: 1 });
      const both = await served.generate(prompts, { adapter: [adapter, null], maxNewTokens: 12 });
      for (const [i, prompt] of prompts.entries()) {
        const own = i === 0 ? { adapter } : {};
        expect(both[i]!.text).toBe((await generateFrom({ model, ...options, ...own, prompt })).text);
      }
      await expect(served.classify(prompts)).rejects.toMatchObject({ code: 'MODEL_NOT_CLASSIFIER' });
      await served.close();
    }
  });

  it('loadModel computes one position a token where the file has a cache, and none of its weights lies there twice', async () => {
    const lengths: number[] = [];
    let folder = '';
    const { create } = InferenceSession;
    InferenceSession.create = async (...given: unknown[]) => {
      folder = dirname(given[0] as string);
      const session = (await Reflect.apply(create, InferenceSession, given)) as InferenceSession;
      const run = session.run.bind(session) as (...inputs: unknown[]) => Promise<InferenceSession.ReturnType>;
      session.run = (...inputs: unknown[]) => {
        const feeds = inputs[0] as Record<string, { readonly dims: readonly number[] }>;
        if (feeds.encoder_hidden_states) lengths.push(feeds.input_ids!.dims[1]!);
        return run(...inputs);
      };
      return session;
    };
    try {
      const served = await loadModel(model, { file: files[1], threads: 1 });
      const written = readdirSync(folder).filter((file) => file.endsWith('.bin'));
      const { tokens } = await served.generate('one cat', { adapter, maxNewTokens: 5 });
      await served.close();
      expect(written).toHaveLength(1);
      // What the last token would be followed by is not asked for.
      expect(lengths).toEqual(Array.from({ length: tokens }, () => 1));
    } finally {
      InferenceSession.create = create;
    }
  });

  it("eval scores generated answers by the task's metrics", async () => {
    const before = await evaluateRun(config);
    const after = await evaluateRun(config, { adapter });
    const merged = await evaluateRun({ ...config, model: { ...config.model, path: out } });
    expect(before.metrics.accuracy).toBe(0);
    expect(after.metrics.accuracy).toBeGreaterThan(0);
    expect(merged.metrics.accuracy).toBe(after.metrics.accuracy);
    expect((await evaluateRun(config, { generated: false })).metrics).not.toHaveProperty('accuracy');
  });

  it('the merged folder says the same in @xenova/transformers', async () => {
    const { text } = await generateFrom({ model: out, ...options });
    const xenova = await importXenova();
    const pipe = await xenova.pipeline('text2text-generation', out.slice(1), { quantized: false });
    const [answer] = (await pipe(options.prompt, { max_new_tokens: 12, do_sample: false })) as [
      { generated_text: string },
    ];
    await pipe.dispose();
    expect(answer.generated_text).toBe(text);
  });
});
