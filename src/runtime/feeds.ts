import * as ort from 'onnxruntime-node';
import type { AdapterSet } from '../adapters/adapterSet.ts';
import type { TargetModule } from '../adapters/module.ts';
import { dropoutInput, parameterInput, parameterShape } from '../adapters/rewriter.ts';
import { AloraError } from '../errors.ts';
import type { Dim, Graph, Value } from '../onnx/graph.ts';
import { randomStream } from '../random.ts';
import { inputNames } from './adaptedModel.ts';
import { asSeq2Seq, type Seq2SeqTokens } from './seq2seq.ts';
import type { Feeds } from './session.ts';

/** A padded batch as the graphs take it; B rows of T tokens, flattened. */
export interface TokenBatch {
  readonly size: number;
  readonly length: number;
  /** int64 [B * T] each. */
  readonly inputIds: BigInt64Array;
  readonly attentionMask: BigInt64Array;
  readonly positionIds: BigInt64Array;
  readonly tokenTypeIds?: BigInt64Array;
  /** Of an encoder-decoder: int64 [B * length] of the decoder; the fields above are then the encoder's. */
  readonly decoder?: { readonly length: number; readonly inputIds: BigInt64Array };
  /** Inputs that are not tokens, by name: sound (`input_features`), images (`pixel_values`). */
  readonly features?: Readonly<Record<string, Features>>;
  /** int64 [n]: labelled positions in B * T (in B for sequence classification), and what to predict there. */
  readonly rows: BigInt64Array;
  readonly targets: BigInt64Array;
}

/** float32 [B, ...], flattened. */
export interface Features {
  readonly data: Float32Array;
  readonly dims: readonly number[];
}

export interface Dropout {
  readonly probability: number;
  readonly seed: number;
  readonly step: number;
  /** Of each row of the batch its number in the training data. */
  readonly examples: readonly number[];
}

/** The values of one module's gates; live ranks as they are, dead ones off. */
export type GateReader = (moduleIndex: number, gate: Float32Array) => Float32Array;

/** Builds the feeds of a graph input by input; an input that nobody knows is refused by name. */
export class Feeder {
  private readonly modelInputs: readonly Value[];
  private readonly names: ReadonlySet<string>;
  private readonly shapes: ReadonlyMap<string, readonly Dim[]>;
  /** `adapters` tells the parameters' inputs from the model's; `given` are inputs that the caller feeds. */
  constructor(
    graph: Graph,
    adapters: Pick<AdapterSet, 'slots'>,
    given: readonly string[] = [],
    /** Of an encoder-decoder; batches are then brought into its form (see asSeq2Seq). */
    private readonly seq2seq?: Seq2SeqTokens,
  ) {
    this.names = new Set(graph.inputs.map((value) => value.name));
    const own = new Set<string>([...Object.values(inputNames), ...given]);
    for (const slot of adapters.slots) own.add(parameterInput(slot.module, slot.spec.role));
    this.modelInputs = graph.inputs.filter((value) => !own.has(value.name) && !value.initializer);
    for (const slot of adapters.slots) own.add(dropoutInput(slot.module));
    for (const value of this.modelInputs)
      if (!known.has(value.name) && !own.has(value.name)) throw unknownInput(value);
    this.shapes = new Map(graph.inputs.map((value) => [value.name, value.shape ?? []]));
  }

  /** Inputs that come from the data; `extra` adds scalars. */
  batch(given: TokenBatch, extra: Readonly<Record<string, number>> = {}): Feeds {
    const batch = this.seq2seq ? asSeq2Seq(given, this.seq2seq) : given;
    const feeds: Feeds = {};
    for (const value of this.modelInputs) {
      const make = known.get(value.name);
      if (make) feeds[value.name] = make(batch, value);
    }
    if (this.names.has(inputNames.rows))
      feeds[inputNames.rows] = new ort.Tensor('int64', batch.rows, [batch.rows.length]);
    if (this.names.has(inputNames.targets))
      feeds[inputNames.targets] = new ort.Tensor('int64', batch.targets, [batch.targets.length]);
    for (const [name, value] of Object.entries(extra))
      if (this.names.has(name)) feeds[name] = new ort.Tensor('float32', Float32Array.of(value), []);
    return feeds;
  }

  /**
   * Inverted dropout on the input of every adapter: float32 masks [B, T, in], or [B*T, in] where the graph has
   * it so. Each row's is a stream of (seed, step, row, module): a resumed run repeats them, and how the rows of a step
   * are dealt out to runs does not matter.
   */
  dropout(
    modules: readonly TargetModule[],
    given: TokenBatch,
    { probability, seed, step, examples }: Dropout,
  ): Feeds {
    const batch = this.seq2seq ? asSeq2Seq(given, this.seq2seq) : given;
    const feeds: Feeds = {};
    for (const module of modules) {
      const name = dropoutInput(module);
      const shape = this.shapes.get(name) ?? [];
      // The lengths of an encoder-decoder have these names (see joinEncoder).
      const decoded = shape.some((dim) => `${dim}`.includes('decoder_sequence_length'));
      // An encoder of sound has as many positions as its file says.
      const fixed = shape.length === 3 && typeof shape[1] === 'number' ? shape[1] : batch.length;
      const length = decoded && batch.decoder ? batch.decoder.length : fixed;
      const width = length * module.in;
      const mask = new Float32Array(batch.size * width);
      examples.forEach((example, b) => {
        const random = randomStream(seed, 'dropout', step, example, module.index);
        fillMask(mask.subarray(b * width, (b + 1) * width), probability, random);
      });
      const positions = shape.length === 2 ? [batch.size * length] : [batch.size, length];
      feeds[name] = new ort.Tensor('float32', mask, [...positions, module.in]);
    }
    return feeds;
  }

  /** Inputs that come from the adapters, as far as the graph has them. */
  parameters(adapters: AdapterSet, gates?: GateReader): Feeds {
    return parameterFeeds(adapters, this.names, gates);
  }
}

/** The parameters among the named inputs: views of the arena, not copies. */
export function parameterFeeds(adapters: AdapterSet, names: ReadonlySet<string>, gates?: GateReader): Feeds {
  const feeds: Feeds = {};
  for (const slot of adapters.slots) {
    const name = parameterInput(slot.module, slot.spec.role);
    if (!names.has(name)) continue;
    let values = adapters.view('values', slot);
    if (slot.spec.role === 'gate' && gates) values = gates(slot.module.index, values);
    feeds[name] = new ort.Tensor('float32', values, parameterShape(slot.spec, slot.rows));
  }
  return feeds;
}

/** Fills a mask with 0 (with the given probability) and 1/(1-p). */
function fillMask(mask: Float32Array, probability: number, random: { uniform(): number }): void {
  const keep = 1 / (1 - probability);
  for (let i = 0; i < mask.length; i++) mask[i] = random.uniform() < probability ? 0 : keep;
}

type MakeInput = (batch: TokenBatch, value: Value) => ort.Tensor;

function tokens(pick: (batch: TokenBatch) => BigInt64Array): MakeInput {
  return (batch, value) => {
    const data = pick(batch);
    const dims = [batch.size, batch.length];
    if (value.dtype === 'int32') return new ort.Tensor('int32', Int32Array.from(data, Number), dims);
    if (value.dtype === 'float32') return new ort.Tensor('float32', Float32Array.from(data, Number), dims);
    if (value.dtype === 'bool') return new ort.Tensor('bool', Uint8Array.from(data, Number), dims);
    return new ort.Tensor('int64', data, dims);
  };
}

const features: MakeInput = (batch, value) => {
  const given = batch.features?.[value.name];
  if (!given) throw unknownInput(value);
  return new ort.Tensor('float32', given.data, given.dims);
};

/** The inputs that transformer exports have beside their caches. */
const known = new Map<string, MakeInput>([
  ['input_ids', tokens((batch) => batch.inputIds)],
  ['attention_mask', tokens((batch) => batch.attentionMask)],
  ['position_ids', tokens((batch) => batch.positionIds)],
  ['token_type_ids', tokens((batch) => batch.tokenTypeIds ?? new BigInt64Array(batch.size * batch.length))],
  [
    'decoder_input_ids',
    ({ size, decoder }) => new ort.Tensor('int64', decoder!.inputIds, [size, decoder!.length]),
  ],
  ['input_features', features],
  ['pixel_values', features],
  ['num_logits_to_keep', () => new ort.Tensor('int64', new BigInt64Array(1), [])],
  [
    'cache_position',
    (batch) => new ort.Tensor('int64', batch.positionIds.slice(0, batch.length), [batch.length]),
  ],
]);

function unknownInput(value: Value): AloraError {
  return new AloraError('model', 'MODEL_INPUT', 'The model has an input that nothing in the data can fill', {
    got: `${value.name}: ${value.dtype}[${(value.shape ?? []).join(', ')}]`,
    allowed: [...known.keys()],
    fix: 'Export the model with the usual inputs, or name another file of the directory in model.file.',
  });
}
