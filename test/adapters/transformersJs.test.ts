import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import { generateFrom } from '../../src/inference/generate.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import * as strategies from '../../src/strategies.ts';
import { trainRun } from '../../src/training/train.ts';
import { importXenova } from '../xenova.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-transformersjs-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** A folder as transformers.js v2 downloads it: nothing but the quantised decoder with its two branches. */
function downloaded(file: string): string {
  const folder = join(scratch, file);
  for (const [from, to] of [
    ['backbones/smollm/config.json', 'config.json'],
    [`backbones/smollm/onnx/${file}.onnx`, `onnx/${file}.onnx`],
    ['models/gpt2/tokenizer.json', 'tokenizer.json'],
    ['models/gpt2/tokenizer_config.json', 'tokenizer_config.json'],
  ] as const)
    cpSync(join('fixtures', from), join(folder, to));
  return folder;
}

const prompt = 'the river';

describe('a folder that transformers.js loads, used untouched', () => {
  it.each([
    ['decoder_model_merged_quantized', true],
    ['decoder_model_merged', false],
  ] as const)('%s trains, merges, and says there what it says here', async (file, quantized) => {
    const model = downloaded(file);
    const output = join(scratch, `${file}-run`);
    const config = resolveRunConfig(
      {
        model: { path: model },
        data: { task: 'text', train: 'fixtures/traces/text.jsonl', maxLength: 32 },
        adapter: { strategy: 'lora', alpha: 16 },
        budget: { rank: 4 },
        train: { steps: 12, batchSize: 4, learningRate: 3e-2, warmup: 0 },
        runtime: { threads: 1 },
        output,
      },
      { strategies },
    );
    await trainRun(config, { strategies });
    const adapter = join(output, 'adapter');
    const out = join(scratch, `${file}-merged`);
    const result = await mergeModel({ adapter, model, out, threads: 1 });
    expect(result.branched).toHaveLength(quantized ? 1 : 0);
    expect(readdirSync(join(out, 'onnx'))).toEqual([`${file}.onnx`]);

    const options = { prompt, maxNewTokens: 12, threads: 1 };
    const beside = await generateFrom({ model, adapter, ...options });
    const merged = await generateFrom({ model: out, ...options });
    expect(merged.text).toBe(beside.text);
    expect(merged.text).not.toBe((await generateFrom({ model, ...options })).text);

    const xenova = await importXenova();
    const pipe = await xenova.pipeline('text-generation', out.slice(1), { quantized });
    const [answer] = (await pipe(prompt, { max_new_tokens: 12, do_sample: false })) as [
      { generated_text: string },
    ];
    await pipe.dispose();
    expect(answer.generated_text).toBe(prompt + merged.text);
  });
});
