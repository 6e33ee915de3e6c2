import type { TokenBatch } from './feeds.ts';

/** Ids of config.json: what the decoder reads first, and what closes the encoder's input. */
export interface Seq2SeqTokens {
  readonly startId: number;
  readonly eosId: number;
}

/**
 * A batch of prompt and completion as an encoder-decoder takes it. Of each row the encoder reads what stands before the
 * first trained place, that place included, closed by the end token as T5's and BART's tokenizers close a text; the
 * decoder reads the start token and the completion but its last token. Rows and targets keep their order: rows count
 * places of the decoder, B * decoder.length.
 */
export function asSeq2Seq(batch: TokenBatch, { startId, eosId }: Seq2SeqTokens): TokenBatch {
  const { size, length } = batch;
  const trained = Array.from({ length: size }, (): { at: number; target: bigint }[] => []);
  batch.rows.forEach((row, i) => {
    trained[Math.floor(Number(row) / length)]!.push({ at: Number(row) % length, target: batch.targets[i]! });
  });
  const sources = trained.map((places, b) => {
    const real = batch.attentionMask
      .subarray(b * length, (b + 1) * length)
      .reduce((n, bit) => n + Number(bit), 0);
    const ids = [...batch.inputIds.subarray(b * length, b * length + (places[0] ? places[0].at + 1 : real))];
    return ids.at(-1) === BigInt(eosId) ? ids : [...ids, BigInt(eosId)];
  });
  const completions = trained.map((places) => [
    BigInt(startId),
    ...places.slice(0, -1).map(({ target }) => target),
  ]);
  const encoderLength = longest(sources);
  const decoderLength = longest(completions);
  return {
    size,
    length: encoderLength,
    inputIds: padded(sources, encoderLength, BigInt(eosId)),
    attentionMask: padded(
      sources.map((ids) => ids.map(() => 1n)),
      encoderLength,
      0n,
    ),
    positionIds: BigInt64Array.from({ length: size * encoderLength }, (_, i) => BigInt(i % encoderLength)),
    decoder: { length: decoderLength, inputIds: padded(completions, decoderLength, BigInt(eosId)) },
    rows: BigInt64Array.from(
      trained.flatMap((places, b) => places.map((_, i) => BigInt(b * decoderLength + i))),
    ),
    targets: batch.targets,
  };
}

const longest = (rows: readonly (readonly bigint[])[]) => Math.max(...rows.map((row) => row.length));

function padded(rows: readonly (readonly bigint[])[], length: number, filler: bigint): BigInt64Array {
  const values = new BigInt64Array(rows.length * length).fill(filler);
  rows.forEach((row, b) => {
    values.set(row, b * length);
  });
  return values;
}
