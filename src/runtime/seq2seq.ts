import type { ModelConfig } from '../adapters/module.ts';
import type { TokenBatch } from './feeds.ts';

/** Ids of config.json: what the decoder reads first, and what closes the encoder's input. */
export interface Seq2SeqTokens {
  /** decoder_start_token_id, and behind it forced_bos_token_id where the model has one (BART). */
  readonly begins: readonly number[];
  readonly eosId: number;
}

/** The ids of a model; those of generation_config.json come before those of config.json. */
export function seq2SeqTokens(config: ModelConfig, generation: ModelConfig = {}): Seq2SeqTokens {
  const id = (...keys: readonly string[]) =>
    keys.flatMap((key) => [generation[key], config[key]]).find((value) => typeof value === 'number');
  const forced = id('forced_bos_token_id');
  return {
    begins: [
      id('decoder_start_token_id', 'bos_token_id', 'pad_token_id') ?? 0,
      ...(forced === undefined ? [] : [forced]),
    ],
    eosId: id('eos_token_id') ?? 1,
  };
}

/**
 * What the decoder of a model that hears writes first: the start, and behind it the language and the task that
 * forced_decoder_ids ([place, id] from place 1 on) name. A place without an id is the model's to choose.
 */
export function speechBegins(config: ModelConfig, generation: ModelConfig = {}): number[] {
  const [start = 0] = seq2SeqTokens(config, generation).begins;
  const forced = new Map(
    (generation.forced_decoder_ids ?? config.forced_decoder_ids ?? []) as [number, number | null][],
  );
  const begins = [start];
  for (let id = forced.get(1); typeof id === 'number'; id = forced.get(begins.length)) begins.push(id);
  return begins;
}

/** A prompt as the encoder reads it: closed by the end token. */
export function closed<Id extends number | bigint>(ids: readonly Id[], eosId: Id): Id[] {
  return ids.at(-1) === eosId ? [...ids] : [...ids, eosId];
}

/**
 * A batch of prompt and completion as an encoder-decoder takes it. Of each row the encoder reads what stands before the
 * first trained place, that place included, closed by the end token as T5's and BART's tokenizers close a text; the
 * decoder reads the tokens that it begins with and the completion but its last token. Rows and targets keep their order: rows count
 * places of the decoder, B * decoder.length.
 */
export function asSeq2Seq(batch: TokenBatch, { begins, eosId }: Seq2SeqTokens): TokenBatch {
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
    return closed(ids, BigInt(eosId));
  });
  const completions = trained.map((places) => [
    ...begins.map(BigInt),
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
    features: batch.features,
    decoder: { length: decoderLength, inputIds: padded(completions, decoderLength, BigInt(eosId)) },
    rows: BigInt64Array.from(
      trained.flatMap((places, b) => places.map((_, i) => BigInt(b * decoderLength + begins.length - 1 + i))),
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
