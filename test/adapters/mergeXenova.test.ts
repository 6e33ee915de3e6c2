import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { afterAll, expect, it } from 'vitest';
import { mergeAdapter } from '../../src/adapters/merge.ts';
import type { PeftAdapter } from '../../src/adapters/peft.ts';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { randomStream } from '../../src/random.ts';
import { sessionDecoder } from '../../src/runtime/decoder.ts';
import { generateText } from '../../src/runtime/textGeneration.ts';
import { importXenova } from '../xenova.ts';

const model = 'fixtures/models/presidents';
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-merge-xenova-'));
afterAll(() => rmSync(scratch, { recursive: true }));

it('a merged model runs in the pipeline of @xenova/transformers, and says there what it says here', async () => {
  const config = JSON.parse(readFileSync(`${model}/config.json`, 'utf8'));
  const modules = findLinearModules(readModel(`${model}/onnx/model.onnx`), config);
  const random = randomStream(0, 'merge');
  const normal = (count: number) => Float32Array.from({ length: count }, () => 0.2 * random.normal());
  const adapter: PeftAdapter = {
    modules: new Map(
      modules
        .filter(({ role }) => role === 'linear')
        .map(({ name, in: width, out }) => {
          const weights = { A: normal(4 * width), B: normal(4 * out), gate: new Float32Array(4).fill(1) };
          return [name, { rank: 4, in: width, out, scale: 1, ...weights }];
        }),
    ),
    saved: new Map(),
    modulesToSave: [],
    baseModel: model,
    taskType: 'CAUSAL_LM',
    fanInFanOut: false,
  };
  const { folder, merged } = mergeAdapter(adapter, model, join(scratch, 'merged'));
  expect(merged.map(({ file }) => file)).toEqual(['onnx/decoder_model_merged.onnx', 'onnx/model.onnx']);

  const xenova = await importXenova();
  const prompt = 'The people of the United States';
  const options = { max_new_tokens: 12, do_sample: false };
  const say = async (path: string) => {
    const pipe = await xenova.pipeline('text-generation', path.slice(1), { quantized: false });
    const [answer] = (await pipe(prompt, options)) as [{ generated_text: string }];
    await pipe.dispose();
    return answer.generated_text;
  };
  const tokenizer = await xenova.AutoTokenizer.from_pretrained(folder.slice(1));
  const session = await ort.InferenceSession.create(join(folder, 'onnx/model.onnx'));
  const ids = tokenizer.encode(prompt);
  const { tokens } = await generateText(sessionDecoder(session), ids, { maxNewTokens: 12 });
  await session.release();
  const here = tokenizer.decode([...ids, ...tokens], { skip_special_tokens: true });
  expect(await say(folder)).toBe(here);
  expect(await say(join(process.cwd(), model))).not.toBe(here);
});
