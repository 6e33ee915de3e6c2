import * as ort from 'onnxruntime-node';
import { AloraError } from '../errors.ts';
import { float16ToFloat32 } from '../onnx/half.ts';

/** A language model that is asked for one token after another, several rows of equal length at once. */
export interface Decoder {
  /**
   * Of an encoder-decoder: the tokens that its own rows begin with. Prompts are then read by the encoder and are no
   * part of the rows.
   */
  readonly begins?: readonly number[];
  /** Begins anew with these rows of token ids; gives the logits of each row's next token, [rows][vocabulary]. */
  start(rows: readonly (readonly number[])[]): Promise<Float32Array[]>;
  /** Row i becomes former row `parents[i]` with `tokens[i]` behind it: rows may be dropped, kept and repeated. */
  next(parents: readonly number[], tokens: readonly number[]): Promise<Float32Array[]>;
}

type Feeds = Record<string, ort.Tensor>;

/** What an encoder-decoder's decoder needs beside its own tokens. */
export interface EncoderSide {
  /** decoder_start_token_id, and what is forced behind it. */
  readonly begins: readonly number[];
  /** Inputs of the decoder (encoder_hidden_states, encoder_attention_mask), of one row for each prompt. */
  encode(prompts: readonly (readonly number[])[]): Promise<Feeds>;
}

/**
 * A decoder over an ONNX Runtime session. A graph with past_key_values inputs runs one position a token (the
 * past is empty at the start; `use_cache_branch` tells older merged files which branch to take); any other
 * graph computes all positions anew. With `later`, a graph with a past takes over after the first run, which gives the
 * past. `constants` are fed at every run that has such inputs: an adapter's parameters. They must not change between
 * `start` and the last `next`. Errors: MODEL_INPUT for an input that nothing can fill, MODEL_RUN with the runtime's
 * words.
 */
export function sessionDecoder(
  session: ort.InferenceSession,
  constants: Readonly<Feeds> = {},
  encoder?: EncoderSide,
  later: ort.InferenceSession = session,
): Decoder {
  const caches = tensorInputs(later).filter(isCache);
  let rows: number[][] = [];
  let past: ort.Tensor[] = [];
  let encoded: Feeds = {};

  const run = async (positions: number): Promise<Float32Array[]> => {
    const length = rows[0]!.length;
    const from = length - positions;
    const at = from === 0 ? session : later;
    const given: Feeds = {
      ...constants,
      ...encoded,
      ...Object.fromEntries(caches.map(({ name }, i) => [name, past[i]!])),
    };
    const feeds: Feeds = {};
    for (const input of tensorInputs(at))
      feeds[input.name] = given[input.name] ?? inputTensor(input, rows, from);
    const logitsName = at.outputNames.find((name) => name === 'logits') ?? at.outputNames[0]!;
    // Keys and values of the encoder's output are given once; merged files give empty ones afterwards.
    const changing = caches.filter(({ name }) => from === 0 || !name.includes('.encoder.'));
    const outputs = await runOrExplain(at, feeds, [logitsName, ...changing.map(presentName)]);
    past = caches.map((cache, i) => (changing.includes(cache) ? outputs[presentName(cache)]! : past[i]!));
    return lastRows(outputs[logitsName]!);
  };

  return {
    begins: encoder?.begins,
    async start(prompts) {
      if (prompts.some((row) => row.length === 0 || row.length !== prompts[0]!.length))
        throw new RangeError('a decoder takes rows of one length, of one token at least');
      encoded = encoder ? await encoder.encode(prompts) : {};
      rows = prompts.map((prompt) => [...(encoder?.begins ?? prompt)]);
      past = caches.map((cache) => emptyCache(cache, rows.length));
      return run(rows[0]!.length);
    },
    async next(parents, tokens) {
      past = past.map((cache) => pickRows(cache, parents));
      encoded = Object.fromEntries(
        Object.entries(encoded).map(([name, tensor]) => [name, pickRows(tensor, parents)]),
      );
      rows = parents.map((parent, i) => [...rows[parent]!, tokens[i]!]);
      return run(caches.length > 0 ? 1 : rows[0]!.length);
    },
  };
}

type Input = ort.InferenceSession.TensorValueMetadata;

const tensorInputs = (session: ort.InferenceSession): Input[] =>
  session.inputMetadata.flatMap((input) => (input.isTensor ? [input] : []));

const isCache = ({ name }: Input) => name.startsWith('past_key_values.');
const presentName = ({ name }: Input) => name.replace('past_key_values', 'present');

/** The rows from position `from` on, in the form that the input wants. Rows have no padding. */
export function inputTensor(input: Input, rows: readonly (readonly number[])[], from: number): ort.Tensor {
  const length = rows[0]!.length;
  const positions = Array.from({ length: length - from }, (_, i) => from + i);
  const each = (value: (row: readonly number[], position: number) => number, at = positions) =>
    integers(
      input,
      rows.flatMap((row) => at.map((position) => value(row, position))),
      [rows.length, at.length],
    );
  switch (input.name) {
    case 'input_ids':
    case 'decoder_input_ids':
      return each((row, position) => row[position]!);
    case 'position_ids':
      return each((_, position) => position);
    case 'token_type_ids':
      return each(() => 0);
    case 'attention_mask':
    case 'decoder_attention_mask':
      return each(
        () => 1,
        Array.from({ length }, (_, i) => i),
      );
    case 'cache_position':
      return integers(input, positions, [positions.length]);
    case 'use_cache_branch':
      return new ort.Tensor('bool', Uint8Array.of(from > 0 ? 1 : 0), [1]);
    case 'num_logits_to_keep':
      return integers(input, [1], []);
    default:
      throw new AloraError(
        'model',
        'MODEL_INPUT',
        'The model has an input that text generation cannot fill',
        {
          got: `${input.name}: ${input.type}[${input.shape.join(', ')}]`,
          allowed: 'input_ids, attention_mask, position_ids, token_type_ids, cache_position, past_key_values',
          fix: 'Use a decoder exported for text generation; model.file names another file of the directory.',
        },
      );
  }
}

function integers({ type }: Input, values: readonly number[], dims: readonly number[]): ort.Tensor {
  if (type === 'int32') return new ort.Tensor('int32', Int32Array.from(values), dims);
  if (type === 'float32') return new ort.Tensor('float32', Float32Array.from(values), dims);
  return new ort.Tensor('int64', BigInt64Array.from(values, BigInt), dims);
}

/**
 * A past of no positions: [rows, heads, 0, size]. The first axis is the batch, another symbolic one the past.
 * `use_cache_branch` is false.
 */
export function emptyCache({ name, type, shape }: Input, rows: number): ort.Tensor {
  if (name === 'use_cache_branch') return new ort.Tensor('bool', Uint8Array.of(0), [1]);
  const dims = shape.map((dim, axis) => (axis === 0 ? rows : typeof dim === 'number' ? dim : 0));
  return type === 'float16'
    ? new ort.Tensor('float16', new Uint16Array(0), dims)
    : new ort.Tensor('float32', new Float32Array(0), dims);
}

/** Rows of a tensor along its first axis; the tensor itself where the rows stay as they are. */
function pickRows(tensor: ort.Tensor, parents: readonly number[]): ort.Tensor {
  const [count = 0, ...rest] = tensor.dims;
  if (parents.length === count && parents.every((parent, i) => parent === i)) return tensor;
  const data = tensor.data as Float32Array | Uint16Array;
  const size = data.length / count;
  const picked = data.slice(0, 0).constructor as { new (length: number): typeof data };
  const result = new picked(size * parents.length);
  parents.forEach((parent, i) => {
    result.set(data.subarray(parent * size, (parent + 1) * size), i * size);
  });
  return new ort.Tensor(tensor.type as 'float32', result as Float32Array, [parents.length, ...rest]);
}

/** The last position of logits [rows, positions, vocabulary], by row. */
function lastRows(logits: ort.Tensor): Float32Array[] {
  const [rows = 0, positions = 0, vocabulary = 0] = logits.dims;
  return Array.from({ length: rows }, (_, row) => {
    const start = ((row + 1) * positions - 1) * vocabulary;
    const data = logits.data as Float32Array | Uint16Array;
    const last = data.subarray(start, start + vocabulary);
    // float16 arrives as its bit patterns.
    return last instanceof Uint16Array ? float16ToFloat32(last) : Float32Array.from(last);
  });
}

async function runOrExplain(
  session: ort.InferenceSession,
  feeds: Feeds,
  fetches: readonly string[],
): Promise<Feeds> {
  try {
    return (await session.run(feeds, fetches)) as Feeds;
  } catch (cause) {
    throw new AloraError('model', 'MODEL_RUN', 'ONNX Runtime failed while generating text', {
      got: (cause instanceof Error ? cause.message : String(cause)).split('\n')[0]!.slice(0, 400),
      fix: "Check that tokenizer.json is the model's own, and that prompt and new tokens fit its longest context.",
      cause,
    });
  }
}
