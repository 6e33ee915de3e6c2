import { readFileSync } from 'node:fs';
import { AloraError } from '../errors.ts';
import { displayPath } from './files.ts';

/** The chunks of a RIFF file by name: the first of each. */
function chunksOf(bytes: Buffer): Map<string, Buffer> {
  const chunks = new Map<string, Buffer>();
  for (let at = 12; at + 8 <= bytes.length; ) {
    const name = bytes.toString('latin1', at, at + 4);
    const size = bytes.readUInt32LE(at + 4);
    if (!chunks.has(name)) chunks.set(name, bytes.subarray(at + 8, at + 8 + size));
    at += 8 + size + (size % 2);
  }
  return chunks;
}

/**
 * The samples of a .wav file, between -1 and 1, both channels of stereo averaged.
 *
 * @throws AloraError of kind data where the file cannot be read, or is not PCM of 16 bits at the given rate (Hz).
 */
export function readWav(path: string, samplingRate: number): Float32Array {
  const refuse = (message: string, got: unknown, cause?: unknown) =>
    new AloraError('data', 'DATA_AUDIO', message, {
      where: displayPath(path),
      got,
      allowed: `a .wav file of 16-bit PCM at ${samplingRate} Hz, mono or stereo`,
      fix: `convert it: ffmpeg -i in.mp3 -ar ${samplingRate} -ac 1 -c:a pcm_s16le out.wav`,
      cause,
    });
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw refuse('a recording cannot be read', (cause as NodeJS.ErrnoException).code, cause);
  }
  const chunks = chunksOf(bytes);
  const [format, data] = [chunks.get('fmt '), chunks.get('data')];
  if (bytes.toString('latin1', 0, 4) !== 'RIFF' || !format || format.length < 16 || !data)
    throw refuse('a recording is not a .wav file', bytes.toString('latin1', 0, 4));
  const [kind, channels, rate, bits] = [
    // The extensible form keeps the kind in a field of its own.
    format.readUInt16LE(0) === 0xfffe && format.length >= 26
      ? format.readUInt16LE(24)
      : format.readUInt16LE(0),
    format.readUInt16LE(2),
    format.readUInt32LE(4),
    format.readUInt16LE(14),
  ];
  if (kind !== 1 || bits !== 16 || rate !== samplingRate || channels < 1 || channels > 2)
    throw refuse(
      'a recording has another form',
      `format ${kind}, ${bits} bits, ${channels} channels, ${rate} Hz`,
    );
  return Float32Array.from({ length: Math.floor(data.length / (2 * channels)) }, (_, i) => {
    let sum = 0;
    for (let channel = 0; channel < channels; channel++)
      sum += data.readInt16LE(2 * (i * channels + channel));
    return sum / (channels * 32768);
  });
}
