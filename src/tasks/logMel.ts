import type { Features } from './task.ts';

/** What preprocessor_config.json says of a WhisperFeatureExtractor. */
export interface LogMelOptions {
  /** Mel bands. */
  readonly bands: number;
  /** Hz. */
  readonly samplingRate: number;
  /** Samples of a window, and from one window to the next. */
  readonly window: number;
  readonly hop: number;
  /** Samples that a recording is cut or padded to. */
  readonly samples: number;
}

/** Slaney's mel scale: linear up to 1000 Hz, logarithmic from there. */
const melOf = (hertz: number) =>
  hertz < 1000 ? (3 * hertz) / 200 : 15 + (27 * Math.log(hertz / 1000)) / Math.log(6.4);
const hertzOf = (mel: number) =>
  mel < 15 ? (200 * mel) / 3 : 1000 * Math.exp((Math.log(6.4) * (mel - 15)) / 27);

/** Triangular filters [band][bin] of equal area between 0 and 8000 Hz. */
function melFilters({ bands, samplingRate, window }: LogMelOptions): Float64Array[] {
  const top = melOf(8000);
  const edges = Array.from({ length: bands + 2 }, (_, i) => hertzOf((top * i) / (bands + 1)));
  return Array.from({ length: bands }, (_, band) => {
    const [low, middle, high] = edges.slice(band, band + 3) as [number, number, number];
    return Float64Array.from({ length: window / 2 + 1 }, (_, bin) => {
      const hertz = (bin * samplingRate) / window;
      const height = Math.min((hertz - low) / (middle - low), (high - hertz) / (high - middle));
      return (2 / (high - low)) * Math.max(0, height);
    });
  });
}

/** Power of each frequency 0 .. N/2 of N samples; a plain transform, since Whisper's N = 400 is no power of two. */
function powerSpectrum(size: number): (frame: Float64Array) => Float64Array {
  const cosine = Float64Array.from({ length: size }, (_, i) => Math.cos((2 * Math.PI * i) / size));
  const sine = Float64Array.from({ length: size }, (_, i) => Math.sin((2 * Math.PI * i) / size));
  return (frame) =>
    Float64Array.from({ length: size / 2 + 1 }, (_, frequency) => {
      let [real, imaginary] = [0, 0];
      for (let i = 0, at = 0; i < size; i++) {
        real += frame[i]! * cosine[at]!;
        imaginary += frame[i]! * sine[at]!;
        at = (at + frequency) % size;
      }
      return real * real + imaginary * imaginary;
    });
}

/**
 * Whisper's log-mel spectrogram [1, bands, samples / hop] as transformers' WhisperFeatureExtractor computes it: centred
 * Hann windows over the recording with its ends reflected, log10 of the power in each band, at most 8 below the largest,
 * scaled by (x + 4) / 4.
 */
export function logMel(options: LogMelOptions): (wave: Float32Array) => Features {
  const { bands, window, hop, samples } = options;
  const filters = melFilters(options);
  const powers = powerSpectrum(window);
  const hann = Float64Array.from(
    { length: window },
    (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / window),
  );
  const frames = Math.floor(samples / hop);
  return (wave) => {
    const end = Math.min(wave.length, samples);
    const at = (i: number) => {
      const place = i < 0 ? -i : i >= samples ? 2 * (samples - 1) - i : i;
      return place < end ? wave[place]! : 0;
    };
    const data = new Float32Array(bands * frames).fill(-10);
    let largest = -10;
    for (let t = 0; t < frames; t++) {
      const start = t * hop - window / 2;
      // Beyond the recording there is silence.
      if (start >= end && start + window <= samples) continue;
      const power = powers(hann.map((weight, i) => weight * at(start + i)));
      filters.forEach((filter, band) => {
        let sum = 0;
        for (let bin = 0; bin < filter.length; bin++) sum += filter[bin]! * power[bin]!;
        const value = Math.log10(Math.max(sum, 1e-10));
        data[band * frames + t] = value;
        largest = Math.max(largest, value);
      });
    }
    return { data: data.map((value) => (Math.max(value, largest - 8) + 4) / 4), dims: [1, bands, frames] };
  };
}
