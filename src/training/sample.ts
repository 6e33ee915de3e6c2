import type { RunConfig } from '../config/schema.ts';
import type { AdaptedRuntime } from '../runtime/adaptedRuntime.ts';
import type { Decoder } from '../runtime/decoder.ts';
import type { Seq2SeqTokens } from '../runtime/seq2seq.ts';
import { generateText } from '../runtime/textGeneration.ts';
import { findTask } from '../tasks/index.ts';
import type { RunData } from './data.ts';
import type { SampleEvent } from './reporter.ts';

/** Tokens of a text row that become the prompt, and tokens to generate. */
const promptTokens = 16;
const newTokens = 48;

/** The prompt of the run's sample: `train.sample`, the first dev row's prompt, or the beginning of its text. */
function samplePrompt(config: RunConfig, data: RunData): number[] | undefined {
  const { tokenizer } = data;
  if (config.train.sample === false) return undefined;
  if (typeof config.train.sample === 'string') return tokenizer.encode(config.train.sample).ids.slice();
  const row = data.dev[0] ?? data.train[0];
  if (!row) return undefined;
  const trainedFrom = row.targets.findIndex((target) => target >= 0);
  const isPrompt = row.prompt !== undefined && trainedFrom > 0;
  return row.ids.slice(0, isPrompt ? trainedFrom + 1 : Math.min(promptTokens, Math.ceil(row.ids.length / 2)));
}

/** A decoder over the sessions that train: every token is a whole forward pass, enough for a short sample. */
function runtimeDecoder(runtime: AdaptedRuntime): Decoder {
  const { seq2seq } = runtime.adapted;
  if (seq2seq) return encodingDecoder(runtime, seq2seq);
  let ids: number[] = [];
  const logits = async () => {
    const length = ids.length;
    return [
      await runtime.logits({
        size: 1,
        length,
        inputIds: BigInt64Array.from(ids, BigInt),
        attentionMask: new BigInt64Array(length).fill(1n),
        positionIds: BigInt64Array.from(ids, (_, i) => BigInt(i)),
        rows: BigInt64Array.of(BigInt(length - 1)),
        targets: BigInt64Array.of(0n),
      }),
    ];
  };
  return {
    start([prompt]) {
      ids = [...prompt!];
      return logits();
    },
    next(_, [token]) {
      ids.push(token!);
      return logits();
    },
  };
}

/**
 * The same of an encoder-decoder. Its graph takes prompt and completion as one row (see asSeq2Seq): what has been written
 * stands behind the prompt, and every place from the prompt's last on is asked for.
 */
function encodingDecoder(runtime: AdaptedRuntime, { begins }: Seq2SeqTokens): Decoder {
  let prompt: readonly number[] = [];
  let written: number[] = [];
  const logits = async () => {
    const ids = [...prompt, ...written];
    const rows = [...written, 0].map((_, i) => BigInt(prompt.length - 1 + i));
    const all = await runtime.logits({
      size: 1,
      length: ids.length,
      inputIds: BigInt64Array.from(ids, BigInt),
      attentionMask: new BigInt64Array(ids.length).fill(1n),
      positionIds: BigInt64Array.from(ids, (_, i) => BigInt(i)),
      rows: BigInt64Array.from(rows),
      targets: BigInt64Array.from([...written, 0], BigInt),
    });
    return [all.slice(all.length - all.length / rows.length)];
  };
  return {
    begins,
    start([row]) {
      prompt = row!;
      written = [];
      return logits();
    },
    next(_, [token]) {
      written.push(token!);
      return logits();
    },
  };
}

/** Text from the model as it now is; null where the model does not write text or the run wants no sample. */
export async function sampleText(
  run: {
    readonly config: RunConfig;
    readonly data: RunData;
    readonly runtime: AdaptedRuntime;
    readonly backbone: { readonly kind: string };
  },
  when: SampleEvent['when'],
): Promise<SampleEvent | null> {
  const { config, data, runtime, backbone } = run;
  // Nothing is to be heard in a sample's prompt.
  if (backbone.kind !== 'causal' || findTask(config.data.task).hears) return null;
  const prompt = samplePrompt(config, data);
  if (!prompt || prompt.length === 0) return null;
  const { tokenizer, contextLength } = data;
  const answers = config.data.task !== 'text';
  const { tokens } = await generateText(runtimeDecoder(runtime), prompt, {
    maxNewTokens: newTokens,
    contextLength,
    endTokens: tokenizer.eosId === undefined ? [] : [tokenizer.eosId],
    // An answer is the likeliest one; free text by greedy decoding of a small model runs in circles.
    sampling: answers ? undefined : { temperature: 0.8, topK: 40, seed: config.train.seed },
  });
  const skipSpecial = { skipSpecial: true };
  return { when, prompt: tokenizer.decode(prompt, skipSpecial), text: tokenizer.decode(tokens, skipSpecial) };
}
