import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { logMel } from '../../src/tasks/logMel.ts';
import { readWav } from '../../src/tasks/wav.ts';
import { wav } from './recordings.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-speech-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const written = (bytes: Buffer): string => {
  const path = join(scratch, `${Math.random()}.wav`);
  writeFileSync(path, bytes);
  return path;
};

describe('logMel', () => {
  it.each([
    ['shorter than the window of the model', 3000],
    ['longer', 9000],
  ])('is what transformers.js computes of a recording %s', async (_, length) => {
    const { WhisperFeatureExtractor } = (await import('@xenova/transformers')) as unknown as {
      WhisperFeatureExtractor: new (
        config: object,
      ) => { _extract_fbank_features(wave: Float32Array): { data: Float32Array; dims: number[] } };
    };
    const config = { feature_size: 80, n_fft: 400, hop_length: 160, n_samples: 5120, sampling_rate: 16000 };
    const wave = Float32Array.from(
      { length },
      (_, i) => 0.4 * Math.sin(i * i * 1e-4) + 0.1 * Math.cos(i / 3),
    );
    const padded = new Float32Array(config.n_samples);
    padded.set(wave.subarray(0, config.n_samples));
    const theirs = new WhisperFeatureExtractor({ ...config, nb_max_frames: 32 })._extract_fbank_features(
      padded,
    );
    const ours = logMel({ bands: 80, samplingRate: 16000, window: 400, hop: 160, samples: 5120 })(wave);
    expect(ours.dims).toEqual([1, ...theirs.dims]);
    // Theirs keeps the spectrum in float32; a band without sound is what rounding leaves of it.
    const worst = ours.data.reduce((most, value, i) => Math.max(most, Math.abs(value - theirs.data[i]!)), 0);
    expect(worst).toBeLessThan(1e-3);
  });
});

describe('readWav', () => {
  it('reads mono, and averages stereo', () => {
    expect([...readWav(written(wav([0, 16384, -32768])), 16000)]).toEqual([0, 0.5, -1]);
    const stereo = wav([16384, 0, -16384, 16384], { channels: 2 });
    expect([...readWav(written(stereo), 16000)]).toEqual([0.25, 0]);
  });

  it.each([
    ['another rate', wav([0], { rate: 44100 }), /another form/],
    ['8 bits', wav([0], { bits: 8 }), /another form/],
    ['no sound file', Buffer.from('ID3 and so on'), /not a .wav file/],
  ])('refuses %s', (_, bytes, message) => {
    expect(() => readWav(written(bytes), 16000)).toThrow(message);
  });

  it('names a file that is not there', () => {
    expect(() => readWav(join(scratch, 'none.wav'), 16000)).toThrow(/cannot be read/);
  });
});
