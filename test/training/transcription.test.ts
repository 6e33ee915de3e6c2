import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { readPeft } from '../../src/adapters/peft.ts';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import * as strategies from '../../src/strategies.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';
import { trainRun } from '../../src/training/train.ts';
import { tone } from '../tasks/recordings.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-whisper-'));
afterAll(() => rmSync(scratch, { recursive: true }));
const fixtures = fileURLToPath(new URL('../../fixtures/', import.meta.url));

/** A random Whisper with a tokenizer of the same vocabulary; it hears 0.32 seconds. */
const model = join(scratch, 'whisper');
for (const part of ['config.json', 'onnx'])
  cpSync(join(fixtures, 'backbones/whisper', part), join(model, part), { recursive: true });
for (const file of ['tokenizer.json', 'tokenizer_config.json'])
  cpSync(join(fixtures, 'models/opt', file), join(model, file));
// As Whisper's: the end token stands behind the text too.
const tokenizer = JSON.parse(readFileSync(join(model, 'tokenizer.json'), 'utf8'));
tokenizer.post_processor.single.push({ SpecialToken: { id: '</s>', type_id: 0 } });
writeFileSync(join(model, 'tokenizer.json'), JSON.stringify(tokenizer));
const preprocessor = join(model, 'preprocessor_config.json');
const hearing = {
  feature_extractor_type: 'WhisperFeatureExtractor',
  feature_size: 8,
  n_fft: 400,
  hop_length: 160,
  n_samples: 5120,
  sampling_rate: 16000,
};
writeFileSync(preprocessor, JSON.stringify(hearing));

mkdirSync(join(scratch, 'sound'));
const words = ['cat', 'dog', 'cow', 'hen'];
words.forEach((word, i) => {
  writeFileSync(join(scratch, 'sound', `${word}.wav`), tone(300 * 2 ** i));
});
const rows = join(scratch, 'rows.jsonl');
writeFileSync(rows, words.map((text) => JSON.stringify({ audio: `sound/${text}.wav`, text })).join('\n'));

const run = (task: string, path: string, output: string, train = rows) =>
  resolveRunConfig(
    {
      model: { path },
      data: { task, train, dev: rows, maxLength: 16 },
      adapter: { strategy: 'lora', dropout: 0.01 },
      budget: { rank: 4 },
      train: { steps: 80, batchSize: 4, learningRate: 2e-2, evalEvery: 40 },
      runtime: { threads: 1 },
      output: join(scratch, output),
    },
    { strategies },
  );

describe('transcription', () => {
  it('tells tones apart, and merges into both files', async () => {
    const config = run('transcription', model, 'run');
    await trainRun(config, { strategies });
    const adapter = join(config.output, 'adapter');
    const after = await evaluateRun(config, { adapter });
    expect(after.metrics.tokenAccuracy).toBe(1);
    // The tokens are right one by one, and so are they when the model writes them itself.
    expect(after.metrics.wordErrorRate).toBe(0);
    // Untrained, it writes something else.
    expect((await evaluateRun(config)).metrics.wordErrorRate).toBeGreaterThan(0.5);
    // A language that the training rows do not begin with is not what was learnt.
    const generation = join(model, 'generation_config.json');
    writeFileSync(generation, JSON.stringify({ forced_decoder_ids: [[1, 17]] }));
    expect((await evaluateRun(config, { adapter })).metrics.wordErrorRate).toBeGreaterThan(0);
    rmSync(generation);
    expect(readPeft(adapter).taskType).toBe('SEQ_2_SEQ_LM');
    const { merged, verification } = await mergeModel({
      adapter,
      model,
      out: join(scratch, 'merged'),
      threads: 1,
    });
    expect(merged.map(({ file }) => file)).toEqual(['onnx/decoder_model.onnx', 'onnx/encoder_model.onnx']);
    // Sums in another order.
    expect(verification[0]!.maxDelta).toBeLessThan(1e-4);
  });

  it('goes with models that hear, whose preprocessor is known', async () => {
    const refused = (task: string, path: string, train?: string) =>
      trainRun(run(task, path, 'none', train), { strategies });
    await expect(refused('prompt', model)).rejects.toThrow(/reads sound/);
    await expect(refused('transcription', join(fixtures, 'models/gpt2'))).rejects.toThrow(/does not read/);
    rmSync(preprocessor);
    await expect(refused('transcription', model)).rejects.toMatchObject({ code: 'MODEL_PREPROCESSOR' });
    writeFileSync(preprocessor, JSON.stringify(hearing));
    const silent = join(scratch, 'silent.jsonl');
    writeFileSync(silent, JSON.stringify({ audio: 'sound/none.wav', text: 'cat' }));
    await expect(refused('transcription', model, silent)).rejects.toMatchObject({ code: 'DATA_BAD_ROW' });
  });
});
