import type { RunConfig } from '../config/schema.ts';
import type { AdaptedRuntime } from '../runtime/adaptedRuntime.ts';
import type { Tokenizer } from '../tasks/tokenizer.ts';
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

/** Greedy continuation by whole forward passes: the sessions that train are enough for a short sample. */
async function continueGreedily(
  runtime: AdaptedRuntime,
  tokenizer: Tokenizer,
  prompt: readonly number[],
  limit: number,
): Promise<number[]> {
  const ids = [...prompt];
  while (ids.length < prompt.length + limit) {
    const length = ids.length;
    const logits = await runtime.logits({
      size: 1,
      length,
      inputIds: BigInt64Array.from(ids, BigInt),
      attentionMask: new BigInt64Array(length).fill(1n),
      positionIds: BigInt64Array.from(ids, (_, i) => BigInt(i)),
      rows: BigInt64Array.of(BigInt(length - 1)),
      targets: BigInt64Array.of(0n),
    });
    let best = 0;
    for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i;
    if (best === tokenizer.eosId) break;
    ids.push(best);
  }
  return ids.slice(prompt.length);
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
  if (backbone.kind !== 'causal') return null;
  const prompt = samplePrompt(config, data);
  if (!prompt || prompt.length === 0) return null;
  const limit = Math.min(newTokens, Math.max(1, (data.contextLength ?? 2048) - prompt.length));
  const ids = await continueGreedily(runtime, data.tokenizer, prompt, limit);
  const skipSpecial = { skipSpecial: true };
  return {
    when,
    prompt: data.tokenizer.decode(prompt, skipSpecial),
    text: data.tokenizer.decode(ids, skipSpecial),
  };
}
