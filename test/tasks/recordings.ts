/** A .wav file of PCM samples; those of stereo alternate. */
export function wav(
  samples: readonly number[],
  { rate = 16000, channels = 1, bits = 16 }: { rate?: number; channels?: number; bits?: number } = {},
): Buffer {
  const head = Buffer.alloc(44);
  head.write('RIFF', 0, 'latin1');
  head.writeUInt32LE(36 + 2 * samples.length, 4);
  head.write('WAVEfmt ', 8, 'latin1');
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(1, 20);
  head.writeUInt16LE(channels, 22);
  head.writeUInt32LE(rate, 24);
  head.writeUInt32LE((rate * channels * bits) / 8, 28);
  head.writeUInt16LE((channels * bits) / 8, 32);
  head.writeUInt16LE(bits, 34);
  head.write('data', 36, 'latin1');
  head.writeUInt32LE(2 * samples.length, 40);
  return Buffer.concat([head, Buffer.from(Int16Array.from(samples).buffer)]);
}

/** A second's fraction of one tone. */
export const tone = (hertz: number, length = 4000): Buffer =>
  wav(Array.from({ length }, (_, i) => Math.round(12000 * Math.sin((2 * Math.PI * hertz * i) / 16000))));
