import type * as ort from 'onnxruntime-node';
import type { TargetModule } from '../adapters/module.ts';
import { AloraError } from '../errors.ts';
import { encoderOutputs } from '../passes/pooling.ts';
import { type Decoder, emptyCache, sessionDecoder } from '../runtime/decoder.ts';
import { sessionEncoder } from '../runtime/encoderDecoder.ts';
import type { Feeder } from '../runtime/feeds.ts';
import { generationConfig, type ModelDirectory } from '../runtime/modelDirectory.ts';
import { seq2SeqTokens } from '../runtime/seq2seq.ts';
import { type Feeds, runSession } from '../runtime/session.ts';
import { generateRows, generateText } from '../runtime/textGeneration.ts';
import type { Workspace } from '../runtime/workspace.ts';
import { collate } from '../tasks/collate.ts';
import type { Example } from '../tasks/task.ts';
import type { Tokenizer } from '../tasks/tokenizer.ts';
import { contextOf } from '../training/data.ts';
import { AdapterShelf } from './adapterShelf.ts';
import {
  classifiesTokens,
  classLogits,
  classNames,
  type OutputRow,
  type Pooling,
  softmax,
} from './classes.ts';
import { type ContinuationOptions, continuationOf, generationSettings } from './continuation.ts';
import type { GenerateResult } from './generate.ts';
import type {
  Classification,
  Logits,
  ModelInput,
  RequestGenerateOptions,
  RequestOptions,
  ServedModel,
} from './requests.ts';
import type { ServedAdapter } from './servedAdapter.ts';
import type { AdapterSite } from './servingGraph.ts';

/** Inputs of a file with a cache that hold no tokens. */
export const cacheInput = /^past_key_values\.|^use_cache_branch$/;

/** See loadModel. */
export class Served implements ServedModel {
  private readonly adapters: AdapterShelf;

  constructor(
    readonly directory: ModelDirectory,
    readonly tokenizer: Tokenizer,
    private readonly workspace: Workspace,
    private readonly session: ort.InferenceSession,
    private readonly sites: readonly AdapterSite[],
    private readonly feeder: Feeder,
    private readonly pooling: Pooling,
    /** Of an encoder-decoder; `session` is then its decoder, of the first token alone where `later` goes on. */
    private readonly encoder:
      | { readonly session: ort.InferenceSession; readonly later: ort.InferenceSession | undefined }
      | undefined,
  ) {
    this.adapters = new AdapterShelf(sites, directory.config);
  }

  get modules(): readonly TargetModule[] {
    return this.sites.map(({ module }) => module);
  }

  use(adapter: string | null): void {
    this.adapters.use(adapter);
  }

  forget(adapter: string): void {
    this.adapters.forget(adapter);
  }

  async generate(prompt: string, options?: RequestGenerateOptions): Promise<GenerateResult>;
  async generate(prompts: readonly string[], options?: RequestGenerateOptions): Promise<GenerateResult[]>;
  async generate(
    prompts: string | readonly string[],
    options: RequestGenerateOptions = {},
  ): Promise<GenerateResult | GenerateResult[]> {
    this.requireDecoder();
    const texts = typeof prompts === 'string' ? [prompts] : prompts;
    const adapters = this.adapters.choose(options.adapter, texts.length);
    const ids = texts.map((text) => this.tokenizer.encode(text).ids);
    const results: GenerateResult[] = [];
    // A beam search reorders its rows, which are all of one prompt.
    const key = (options.beams ?? 1) > 1 ? (i: number) => i : (i: number) => ids[i]!.length;
    for (const group of this.batches(adapters, key)) {
      const decoder = this.decoder(group.map((i) => adapters[i]!));
      const rows = group.map((i) => ids[i]!);
      const written = await this.continueRows(decoder, rows, options, texts.length === 1);
      written.forEach((result, i) => {
        results[group[i]!] = { prompt: texts[group[i]!]!, ...result };
      });
    }
    return typeof prompts === 'string' ? results[0]! : results;
  }

  /** `alone`: the only prompt of a request, whose text is told as it is written. */
  private async continueRows(
    decoder: Decoder,
    rows: readonly (readonly number[])[],
    { onText, ...options }: ContinuationOptions,
    alone: boolean,
  ): Promise<Omit<GenerateResult, 'prompt'>[]> {
    const settings = generationSettings(this, { ...options, onText: alone ? onText : undefined });
    const begun = performance.now();
    const generations =
      rows.length === 1
        ? [await generateText(decoder, rows[0]!, settings)]
        : await generateRows(decoder, rows, settings);
    const seconds = (performance.now() - begun) / 1000;
    return generations.map((generation) => continuationOf(this, generation, seconds));
  }

  async logits(inputs: readonly ModelInput[], options: RequestOptions = {}): Promise<Logits[]> {
    const rows = await this.run(inputs, options);
    return rows.map((row) => {
      const { name, dims, data } = row.output;
      if (name !== 'logits' || dims.length === 2) return classLogits(row, this.pooling);
      const [, length = 0, width = 0] = dims;
      const start = row.index * length * width;
      // A view: logits of a batch are large.
      return { dims: [row.tokens, width], data: data.subarray(start, start + row.tokens * width) };
    });
  }

  async classify(inputs: readonly ModelInput[], options: RequestOptions = {}): Promise<Classification[]> {
    const rows = await this.run(inputs, options);
    return rows.map((row) => {
      if (row.output.name === 'logits' && row.output.dims.length === 3)
        throw new AloraError('model', 'MODEL_NOT_CLASSIFIER', 'The model has no classification head', {
          where: this.directory.file,
          got: 'logits for each token',
          allowed:
            'a model with a sequence classification head, or an encoder with an adapter that brings one',
          fix: 'Use generate, or logits.',
        });
      if (classifiesTokens(row))
        throw new AloraError(
          'model',
          'MODEL_NOT_CLASSIFIER',
          'The adapter gives each token a class, not the text',
          {
            where: this.directory.file,
            got: 'an adapter of token-classification',
            allowed: 'an adapter that was trained for classification',
            fix: 'Use logits: it gives [tokens, classes].',
          },
        );
      const { data } = classLogits(row, this.pooling);
      const names = classNames(this.directory.config, data.length, row.classifier?.notes);
      const scores = softmax(data).map((score, at) => ({ label: names[at]!, score }));
      return { ...scores.reduce((best, item) => (item.score > best.score ? item : best)), scores };
    });
  }

  async close(): Promise<void> {
    await this.session.release();
    await this.encoder?.session.release();
    await this.encoder?.later?.release();
    this.workspace.close();
  }

  private async run(inputs: readonly ModelInput[], { adapter }: RequestOptions): Promise<OutputRow[]> {
    if (this.encoder)
      throw new AloraError('model', 'MODEL_NOT_CLASSIFIER', 'An encoder-decoder answers with text', {
        where: this.directory.file,
        got: 'a request for logits or classes',
        allowed: 'generate',
        fix: 'Use generate.',
      });
    const adapters = this.adapters.choose(adapter, inputs.length);
    const examples = inputs.map((input) => this.example(input));
    const rows: OutputRow[] = [];
    for (const group of this.batches(adapters, () => 0)) {
      const own = group.map((i) => adapters[i]!);
      const batch = collate(
        group.map((i) => examples[i]!),
        { padId: this.tokenizer.padId },
      );
      const feeds = {
        ...this.feeder.batch(batch),
        ...this.caches(group.length),
        ...this.adapters.feeds(own),
      };
      const names = this.session.outputNames;
      const name = outputs.find((output) => names.includes(output)) ?? names[0]!;
      const { dims, data } = (await runSession(this.session, 'inference', feeds, [name]))[name]!;
      const output = { name, dims, data: data as Float32Array };
      group.forEach((i, index) => {
        rows[i] = { output, index, tokens: examples[i]!.ids.length, classifier: adapters[i]!.classifier };
      });
    }
    return rows;
  }

  /** Examples that can run together: of one key, and of one adapter where the model does not mix them. */
  private batches(adapters: readonly ServedAdapter[], key: (index: number) => number): number[][] {
    const mixes = this.sites.every((site) => site.mixes);
    const groups = new Map<string, number[]>();
    for (const [i, adapter] of adapters.entries()) {
      const name = `${key(i)} ${mixes ? '' : adapters.indexOf(adapter)}`;
      groups.set(name, [...(groups.get(name) ?? []), i]);
    }
    return [...groups.values()];
  }

  private example(input: ModelInput): Example {
    const [first, second] = typeof input === 'string' ? [input] : input;
    const { ids, typeIds } =
      typeof first === 'string'
        ? this.tokenizer.encode(first, second as string | undefined, contextOf(this.directory.config))
        : { ids: [...(input as readonly number[])], typeIds: undefined };
    if (ids.length === 0)
      throw new AloraError('data', 'PROMPT_EMPTY', 'A text has no tokens', {
        fix: 'Give at least one word.',
      });
    return {
      kind: 'sequence',
      ids,
      typeIds,
      targets: [0],
      source: { file: '', line: 0 },
      prompt: '',
      truncated: false,
    };
  }

  /** A past of no positions, for files with a cache. */
  private caches(rows: number): Feeds {
    const feeds: Feeds = {};
    for (const input of this.session.inputMetadata)
      if (input.isTensor && cacheInput.test(input.name)) feeds[input.name] = emptyCache(input, rows);
    return feeds;
  }

  private decoder(adapters: readonly ServedAdapter[]): Decoder {
    const feeds = this.adapters.feeds(adapters);
    const { encoder } = this;
    if (!encoder) return sessionDecoder(this.session, feeds);
    const { config, folder } = this.directory;
    const tokens = seq2SeqTokens(config, generationConfig(folder));
    const side = sessionEncoder(encoder.session, tokens, inputsOf(encoder.session, feeds));
    return sessionDecoder(this.session, feeds, side, encoder.later);
  }

  private requireDecoder(): void {
    if (this.session.outputNames.includes('logits')) return;
    throw new AloraError('model', 'MODEL_NOT_DECODER', 'The model does not write text', {
      where: this.directory.file,
      got: this.session.outputNames.join(', '),
      allowed: 'a decoder whose output is logits',
      fix: 'Use classify or logits.',
    });
  }
}

function inputsOf({ inputNames }: ort.InferenceSession, feeds: Feeds): Feeds {
  return Object.fromEntries(Object.entries(feeds).filter(([name]) => inputNames.includes(name)));
}

/** Outputs that a request may read, in order of preference: that of training. */
const outputs = ['logits', ...encoderOutputs];
