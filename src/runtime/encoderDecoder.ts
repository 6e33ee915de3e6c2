import * as ort from 'onnxruntime-node';
import { type EncoderSide, inputTensor } from './decoder.ts';
import type { Features } from './feeds.ts';
import { closed, type Seq2SeqTokens } from './seq2seq.ts';
import { type Feeds, runSession } from './session.ts';

/**
 * The encoder's half of an encoder-decoder over an ONNX Runtime session. Prompts of equal length, each closed by the end
 * token, run as one batch without padding. `constants` are fed at every run: an adapter's parameters. Errors:
 * MODEL_INPUT for an input that a text cannot fill, MODEL_RUN.
 */
export function sessionEncoder(
  session: ort.InferenceSession,
  { begins, eosId }: Seq2SeqTokens,
  constants: Readonly<Feeds> = {},
): EncoderSide {
  const inputs = session.inputMetadata.flatMap((input) => (input.isTensor ? [input] : []));
  return {
    begins,
    async encode(prompts) {
      const rows = prompts.map((prompt) => closed(prompt, eosId));
      const feeds: Feeds = { ...constants };
      for (const input of inputs)
        if (!(input.name in constants)) feeds[input.name] = inputTensor(input, rows, 0);
      const [name = ''] = session.outputNames;
      const outputs = await runSession(session, 'encoder', feeds, [name]);
      const shape = [rows.length, rows[0]!.length];
      return {
        encoder_hidden_states: outputs[name]!,
        encoder_attention_mask: new ort.Tensor(
          'int64',
          new BigInt64Array(shape[0]! * shape[1]!).fill(1n),
          shape,
        ),
      };
    },
  };
}

/** What a model hears in place of prompts: row i of a batch is recording `prompts[i][0]`. */
export interface Recordings {
  /** What the decoder writes first, as `speechBegins` gives it. */
  readonly begins: readonly number[];
  /** Inputs of the encoder of these recordings, by name, one below the other. */
  features(recordings: readonly number[]): Readonly<Record<string, Features>>;
}

/** The same over sound. */
export function sessionHearing(
  session: ort.InferenceSession,
  { begins, features }: Recordings,
  constants: Readonly<Feeds> = {},
): EncoderSide {
  return {
    begins,
    async encode(prompts) {
      const feeds: Feeds = { ...constants };
      for (const [name, { data, dims }] of Object.entries(features(prompts.map(([recording]) => recording!))))
        feeds[name] = new ort.Tensor('float32', data, dims);
      const [name = ''] = session.outputNames;
      const outputs = await runSession(session, 'encoder', feeds, [name]);
      return { encoder_hidden_states: outputs[name]! };
    },
  };
}
