import * as ort from 'onnxruntime-node';
import { afterAll, describe, expect, it } from 'vitest';
import { AloraError } from '../../src/errors.ts';
import { type Decoder, sessionDecoder } from '../../src/runtime/decoder.ts';
import { endTokens, generateText } from '../../src/runtime/textGeneration.ts';
import { largest, sampleToken } from '../../src/runtime/tokenScores.ts';
import fc from '../fastCheck.ts';
import { casesOf, expectTransformersText } from './transformersText.ts';

const cases = casesOf('expected.json');

const sessions: ort.InferenceSession[] = [];
afterAll(async () => {
  for (const session of sessions) await session.release();
});
async function open(file: string): Promise<Decoder> {
  const session = await ort.InferenceSession.create(`fixtures/models/${file}`, { logSeverityLevel: 3 });
  sessions.push(session);
  return sessionDecoder(session);
}

const files = ['llama/onnx/model.onnx', 'llama-kv/onnx/model.onnx', 'gpt2/onnx/model.onnx'];

describe('generateText gives what transformers gives', () => {
  it.each(files)('%s: greedy, repetition penalty, beams', async (file) => {
    const decoder = await open(file);
    for (const one of cases.filter(({ model }) => file.startsWith(model)))
      await expectTransformersText(decoder, one);
  });
});

describe('the decoder', () => {
  it('drops, keeps and repeats rows of the cache', async () => {
    const cached = await open('llama-kv/onnx/model.onnx');
    const plain = await open('llama/onnx/model.onnx');
    await cached.start([
      [5, 9],
      [2, 44],
      [7, 8],
    ]);
    await plain.start([
      [5, 9],
      [2, 44],
      [7, 8],
    ]);
    const parents = [2, 0, 2, 2];
    const [a, b] = [await cached.next(parents, [1, 2, 3, 4]), await plain.next(parents, [1, 2, 3, 4])];
    expect(a).toHaveLength(4);
    // One position against three, float32, logits of size 1.
    a.forEach((row, i) => {
      row.forEach((logit, j) => {
        expect(Math.abs(logit - b[i]![j]!)).toBeLessThan(1e-5);
      });
    });
  });

  it('reads fp16 logits', async () => {
    const [whole] = await (await open('llama/onnx/model.onnx')).start([[5, 9, 2]]);
    const [half] = await (await open('llama/onnx/model_fp16.onnx')).start([[5, 9, 2]]);
    // float16 weights and activations; 11 bits of logits of size 1.
    expect(Math.max(...half!.map((logit, i) => Math.abs(logit - whole![i]!)))).toBeLessThan(0.01);
  });

  it('refuses an input that it cannot fill', async () => {
    const file = 'fixtures/models/bert/onnx/model.onnx';
    const session = await ort.InferenceSession.create(file, { logSeverityLevel: 3 });
    sessions.push(session);
    const odd = {
      ...session,
      inputMetadata: [{ name: 'pixels', isTensor: true, type: 'float32', shape: [1] }],
    };
    const decoder = sessionDecoder({
      ...odd,
      outputNames: session.outputNames,
    } as unknown as ort.InferenceSession);
    await expect(decoder.start([[1]])).rejects.toMatchObject({ code: 'MODEL_INPUT', exitCode: 5 });
  });
});

/** A vocabulary of four tokens; the likeliest next token is the last one plus one. */
const counting: Decoder = {
  async start(rows) {
    return rows.map((row) => logitsAfter(row[row.length - 1]!));
  },
  async next(_, tokens) {
    return tokens.map(logitsAfter);
  },
};
function logitsAfter(token: number): Float32Array {
  return Float32Array.from({ length: 4 }, (_, i) => (i === (token + 1) % 4 ? 2 : 0));
}

describe('endings', () => {
  it('says why it ended, and reports tokens as they come', async () => {
    const seen: number[] = [];
    const onToken = (token: number) => seen.push(token);
    expect(await generateText(counting, [0], { maxNewTokens: 9, endTokens: [3], onToken })).toEqual({
      tokens: [1, 2, 3],
      finish: 'end',
    });
    expect(seen).toEqual([1, 2, 3]);
    const short = await generateText(counting, [0], { maxNewTokens: 2, endTokens: [3] });
    expect(short).toEqual({ tokens: [1, 2], finish: 'length' });
    const context = await generateText(counting, [0, 1, 2], { maxNewTokens: 9, contextLength: 5 });
    expect(context).toEqual({ tokens: [3, 0], finish: 'length' });
    const signal = AbortSignal.abort();
    expect((await generateText(counting, [0], { maxNewTokens: 9, signal })).finish).toBe('interrupted');
    const beams = { beams: 2 };
    expect((await generateText(counting, [0], { maxNewTokens: 9, signal, beams })).finish).toBe(
      'interrupted',
    );
  });

  it('refuses a prompt without tokens, or one that fills the context', async () => {
    await expect(generateText(counting, [], { maxNewTokens: 1 })).rejects.toBeInstanceOf(AloraError);
    const options = { maxNewTokens: 1, contextLength: 3 };
    await expect(generateText(counting, [1, 2, 3], options)).rejects.toMatchObject({
      code: 'PROMPT_TOO_LONG',
    });
  });

  it('takes end tokens from the first configuration that names any', () => {
    expect(endTokens({}, { eos_token_id: 2 })).toEqual([2]);
    expect(endTokens({ eos_token_id: [1, 2] }, { eos_token_id: 3 })).toEqual([1, 2]);
    expect(endTokens({ eos_token_id: null }, {})).toEqual([]);
  });
});

describe('sampling', () => {
  const logits = Float32Array.from([0.5, 3, -1, 2, 2]);

  it('is repeatable by seed, and cold sampling is greedy', async () => {
    const draw = (seed: number, temperature = 1.5) =>
      generateText(counting, [0], { maxNewTokens: 30, sampling: { seed, temperature } });
    expect(await draw(1)).toEqual(await draw(1));
    expect((await draw(1)).tokens).not.toEqual((await draw(2)).tokens);
    expect((await draw(1, 0.01)).tokens).toEqual(
      (await generateText(counting, [0], { maxNewTokens: 30 })).tokens,
    );
  });

  it('draws each token as often as its probability says', () => {
    const draws = 20_000;
    const counts = new Float64Array(5);
    for (let i = 0; i < draws; i++) counts[sampleToken(logits, { topK: 0 }, (i + 0.5) / draws)]!++;
    const weights = logits.map(Math.exp);
    const total = weights.reduce((a, b) => a + b, 0);
    // Evenly spaced draws hit each share to within one draw at either end.
    counts.forEach((n, i) => {
      expect(Math.abs(n - (draws * weights[i]!) / total)).toBeLessThanOrEqual(2);
    });
  });

  it('top-k and top-p cut the tail', () => {
    const tokens = (options: { topK?: number; topP?: number }) =>
      new Set(Array.from({ length: 1000 }, (_, i) => sampleToken(logits, options, i / 1000)));
    expect(tokens({ topK: 2 })).toEqual(new Set([1, 3]));
    expect(tokens({ topP: 0.5 })).toEqual(new Set([1]));
    // exp: 20.1, 7.4, 7.4 of 36.9 in all: two reach 0.74, three 0.94.
    expect(tokens({ topP: 0.74 })).toEqual(new Set([1, 3]));
    expect(tokens({ topP: 0.9 })).toEqual(new Set([1, 3, 4]));
    expect(tokens({})).toEqual(new Set([0, 1, 2, 3, 4]));
  });

  it('largest is the head of a stable sort', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: -3, max: 3 })),
        fc.integer({ min: 1, max: 6 }),
        (scores, count) => {
          const sorted = scores.map((_, i) => i).sort((a, b) => scores[b]! - scores[a]! || a - b);
          expect(largest(scores, count)).toEqual(sorted.slice(0, count));
        },
      ),
    );
  });
});

it('the embedded model continues alike with its cache and without', async () => {
  const options = { maxNewTokens: 12 };
  const prompt = [50, 300, 17];
  const cached = await generateText(await open('presidents/onnx/decoder_model_merged.onnx'), prompt, options);
  const plain = await generateText(await open('presidents/onnx/model.onnx'), prompt, options);
  expect(cached.tokens).toEqual(plain.tokens);
});
