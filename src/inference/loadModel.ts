import { resolve } from 'node:path';
import type * as ort from 'onnxruntime-node';
import type { TargetModule } from '../adapters/module.ts';
import { readPeft } from '../adapters/peft.ts';
import { AloraError } from '../errors.ts';
import { readModel } from '../onnx/decode.ts';
import type { Model } from '../onnx/graph.ts';
import { emptyCache as emptyPast } from '../passes/emptyCache.ts';
import { readsEncoder } from '../passes/joinEncoder.ts';
import { encoderFile } from '../runtime/backbone.ts';
import { type Decoder, emptyCache, sessionDecoder } from '../runtime/decoder.ts';
import { sessionEncoder } from '../runtime/encoderDecoder.ts';
import { Feeder } from '../runtime/feeds.ts';
import { localModel } from '../runtime/hub.ts';
import { findModel, generationConfig } from '../runtime/modelDirectory.ts';
import { worthPacking } from '../runtime/prepacking.ts';
import { seq2SeqTokens } from '../runtime/seq2seq.ts';
import { type Feeds, openSession, runSession } from '../runtime/session.ts';
import { type GenerationOptions, generateRows, generateText } from '../runtime/textGeneration.ts';
import { openWorkspace, type Workspace } from '../runtime/workspace.ts';
import { collate } from '../tasks/collate.ts';
import type { Example } from '../tasks/task.ts';
import { loadTokenizer, type Tokenizer } from '../tasks/tokenizer.ts';
import { contextOf } from '../training/data.ts';
import { endsOf } from '../training/openDecoder.ts';
import { classLogits, classNames, type OutputRow, type Pooling, softmax } from './classes.ts';
import type { GenerateResult } from './generate.ts';
import type {
  AdapterChoice,
  Classification,
  LoadModelOptions,
  Logits,
  ModelInput,
  RequestGenerateOptions,
  RequestOptions,
  ServedModel,
} from './requests.ts';
import { fitAdapter, noAdapter, type ServedAdapter, stackedFeeds } from './servedAdapter.ts';
import { type AdapterSite, makeAdapterReady } from './servingGraph.ts';

/**
 * Opens a model so that adapters are inputs of its graph: one session serves all of them, per request and per example
 * of a batch, and no switch rebuilds anything. Fused and quantised operators and the cache run as exported.
 */
export async function loadModel(path: string, options: LoadModelOptions = {}): Promise<ServedModel> {
  const directory = findModel(await localModel(path, options.file), {
    file: options.file,
    purpose: 'generation',
  });
  const tokenizer = await loadTokenizer(directory.folder);
  const model = readModel(directory.file);
  const encoder = readsEncoder(model) ? readModel(encoderFile(directory)) : undefined;
  // The branch with a cache would ask for keys and values of the encoder's output, which only the other one makes.
  if (encoder) emptyPast(model);
  const sites = makeAdapterReady(
    encoder ? [model, encoder] : [model],
    directory.config,
    options.targets ?? 'all-linear',
  );
  const workspace = openWorkspace();
  try {
    const runtime = { device: options.device ?? 'cpu', threads: options.threads ?? 0 } as const;
    const open = (name: string, half: Model) => {
      workspace.shareWeights(half.graph);
      const prepack = worthPacking(half.graph, 'tokens');
      return openSession(workspace.write(name, half), runtime, { prepack });
    };
    const session = await open('serving', model);
    const given = [
      ...sites.flatMap(({ a, b, bias }) => (bias === undefined ? [a, b] : [a, b, bias])),
      ...model.graph.inputs
        .map(({ name }) => name)
        .filter((name) => cacheInput.test(name) || encoderInput.test(name)),
    ];
    const feeder = new Feeder(model.graph, { slots: [] }, given);
    const pooling = options.pooling ?? 'mean';
    const half = encoder && (await open('encoder', encoder));
    return new Served(directory, tokenizer, workspace, session, sites, feeder, pooling, half);
  } catch (error) {
    workspace.close();
    throw error;
  }
}

const cacheInput = /^past_key_values\.|^use_cache_branch$/;
const encoderInput = /^encoder_/;

class Served implements ServedModel {
  private readonly known = new Map<string, ServedAdapter>();
  private readonly base: ServedAdapter;
  private current: ServedAdapter;
  /** Feeds of one adapter for a whole batch. */
  private readonly feedsOf = new Map<ServedAdapter, Feeds>();
  /** The last mixture of adapters, so that a stream of like batches stacks them once. */
  private mixture: { readonly adapters: readonly ServedAdapter[]; readonly feeds: Feeds } | undefined;

  constructor(
    private readonly directory: ReturnType<typeof findModel>,
    private readonly tokenizer: Tokenizer,
    private readonly workspace: Workspace,
    private readonly session: ort.InferenceSession,
    private readonly sites: readonly AdapterSite[],
    private readonly feeder: Feeder,
    private readonly pooling: Pooling,
    /** Of an encoder-decoder; `session` is then its decoder. */
    private readonly encoder: ort.InferenceSession | undefined,
  ) {
    this.base = noAdapter(sites);
    this.current = this.base;
  }

  get modules(): readonly TargetModule[] {
    return this.sites.map(({ module }) => module);
  }

  use(adapter: string | null): void {
    this.current = this.adapterOf(adapter);
  }

  forget(adapter: string): void {
    const path = resolve(adapter);
    const served = this.known.get(path);
    if (!served) return;
    this.known.delete(path);
    this.feedsOf.delete(served);
    this.mixture = undefined;
    if (this.current === served) this.current = this.base;
  }

  async generate(prompt: string, options?: RequestGenerateOptions): Promise<GenerateResult>;
  async generate(prompts: readonly string[], options?: RequestGenerateOptions): Promise<GenerateResult[]>;
  async generate(
    prompts: string | readonly string[],
    options: RequestGenerateOptions = {},
  ): Promise<GenerateResult | GenerateResult[]> {
    this.requireDecoder();
    const texts = typeof prompts === 'string' ? [prompts] : prompts;
    const adapters = this.adaptersOf(options.adapter, texts.length);
    const ids = texts.map((text) => this.tokenizer.encode(text).ids);
    const results: GenerateResult[] = [];
    for (const group of this.batches(adapters, (i) => ids[i]!.length)) {
      const decoder = this.decoder(group.map((i) => adapters[i]!));
      const rows = group.map((i) => ids[i]!);
      const written = await this.continueRows(decoder, rows, options);
      written.forEach((result, i) => {
        results[group[i]!] = { prompt: texts[group[i]!]!, ...result };
      });
    }
    return typeof prompts === 'string' ? results[0]! : results;
  }

  private async continueRows(
    decoder: Decoder,
    rows: readonly (readonly number[])[],
    { temperature = 0, topK, topP, seed, beams = 1, onText, ...options }: RequestGenerateOptions,
  ): Promise<Omit<GenerateResult, 'prompt'>[]> {
    const { config } = this.directory;
    const skipSpecial = (tokens: readonly number[]) => this.tokenizer.decode(tokens, { skipSpecial: true });
    const written: number[] = [];
    let shown = '';
    const settings: GenerationOptions = {
      maxNewTokens: options.maxNewTokens ?? 64,
      endTokens: endsOf(this.directory, this.tokenizer.eosId),
      sampling: temperature > 0 ? { temperature, topK, topP, seed } : undefined,
      beams: beams > 1 ? { beams } : undefined,
      repetitionPenalty: options.repetitionPenalty,
      contextLength: contextOf(config),
      signal: options.signal,
      onToken(token) {
        if (!onText || rows.length > 1) return;
        written.push(token);
        const text = skipSpecial(written);
        if (text.endsWith('\ufffd')) return;
        onText(text.slice(shown.length));
        shown = text;
      },
    };
    const begun = performance.now();
    // Beams reorder rows, adapters do not follow: one prompt at a time, whose adapter is every beam's.
    const generations =
      rows.length === 1
        ? [await generateText(decoder, rows[0]!, settings)]
        : await generateRows(decoder, rows, settings);
    const seconds = (performance.now() - begun) / 1000;
    return generations.map(({ tokens, finish }) => ({
      text: skipSpecial(tokens),
      tokens: tokens.length,
      finish,
      tokensPerSecond: tokens.length / seconds,
    }));
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
      const { data } = classLogits(row, this.pooling);
      const names = classNames(this.directory.config, data.length, row.classifier?.notes);
      const scores = softmax(data).map((score, at) => ({ label: names[at]!, score }));
      return { ...scores.reduce((best, item) => (item.score > best.score ? item : best)), scores };
    });
  }

  async close(): Promise<void> {
    await this.session.release();
    await this.encoder?.release();
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
    const adapters = this.adaptersOf(adapter, inputs.length);
    const examples = inputs.map((input) => this.example(input));
    const rows: OutputRow[] = [];
    for (const group of this.batches(adapters, () => 0)) {
      const own = group.map((i) => adapters[i]!);
      const batch = collate(
        group.map((i) => examples[i]!),
        { padId: this.tokenizer.padId },
      );
      const feeds = { ...this.feeder.batch(batch), ...this.caches(group.length), ...this.feeds(own) };
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
    const feeds = this.feeds(adapters);
    const { encoder } = this;
    if (!encoder) return sessionDecoder(this.session, feeds);
    const { config, folder } = this.directory;
    const tokens = seq2SeqTokens(config, generationConfig(folder));
    // Sites of both halves have their feeds together.
    const side = sessionEncoder(encoder, tokens, inputsOf(encoder, feeds));
    return sessionDecoder(this.session, inputsOf(this.session, feeds), side);
  }

  private feeds(adapters: readonly ServedAdapter[]): Feeds {
    const [first] = adapters;
    if (adapters.every((adapter) => adapter === first)) {
      const feeds = this.feedsOf.get(first!) ?? stackedFeeds(this.sites, [first!]);
      this.feedsOf.set(first!, feeds);
      return feeds;
    }
    const last = this.mixture?.adapters;
    const same = last?.length === adapters.length && adapters.every((adapter, i) => adapter === last[i]);
    if (!this.mixture || !same) this.mixture = { adapters, feeds: stackedFeeds(this.sites, adapters) };
    return this.mixture.feeds;
  }

  private adaptersOf(choice: AdapterChoice | undefined, count: number): ServedAdapter[] {
    if (choice === undefined || choice === null || typeof choice === 'string') {
      const one = choice === undefined ? this.current : this.adapterOf(choice);
      return new Array<ServedAdapter>(count).fill(one);
    }
    if (choice.length !== count)
      throw new AloraError('usage', 'ADAPTER_COUNT', 'There must be one adapter for each example', {
        where: 'adapter',
        got: `${choice.length} adapters for ${count} examples`,
        fix: 'Name one adapter for all, or one (null for none) for each example.',
      });
    return choice.map((adapter) => this.adapterOf(adapter));
  }

  private adapterOf(adapter: string | null): ServedAdapter {
    if (adapter === null) return this.base;
    const path = resolve(adapter);
    let served = this.known.get(path);
    if (!served) {
      served = fitAdapter(readPeft(path), this.sites, this.directory.config);
      this.known.set(path, served);
      // Tensors are made now, so that the first request does not wait for them.
      this.feeds([served]);
    }
    return served;
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

/** Outputs that a request may read, in order of preference. */
const outputs = ['logits', 'sentence_embedding', 'last_hidden_state', 'token_embeddings'];
