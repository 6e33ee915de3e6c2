import type { TargetModule } from '../adapters/module.ts';
import type { RuntimeOptions } from '../runtime/session.ts';
import type { ContinuationOptions } from './continuation.ts';
import type { GenerateResult } from './generate.ts';
import type { SiteTargets } from './servingGraph.ts';

/** How `loadModel` opens a model. */
export interface LoadModelOptions extends Partial<RuntimeOptions> {
  /** ONNX file inside the directory. */
  readonly file?: string;
  /** Layers that adapters may act on, as model.targets of the run file. Default: all-linear. Heads always count. */
  readonly targets?: SiteTargets;
  /** How a new classifier reads an encoder that gives hidden states; default mean. */
  readonly pooling?: 'cls' | 'mean';
}

/** A folder in PEFT format, null for the base model, or one of these for each example of the request. */
export type AdapterChoice = string | null | readonly (string | null)[];

/** What every request to a served model may say. */
export interface RequestOptions {
  /** Default: what `use` chose last. */
  readonly adapter?: AdapterChoice;
}

/** A text, a pair of texts, or token ids as they are. */
export type ModelInput = string | readonly [text: string, textPair: string] | readonly number[];

/** Logits of one example: [T, V] for a decoder (T its tokens), [C] for a classifier, [T, C] where it tags tokens. */
export interface Logits {
  readonly dims: readonly number[];
  readonly data: Float32Array;
}

/** The class of one example, with what the others got. */
export interface Classification {
  /** The likeliest class and its probability. */
  readonly label: string;
  readonly score: number;
  /** Probabilities of all classes, in the order of the head. */
  readonly scores: readonly { readonly label: string; readonly score: number }[];
}

/** How a served model is asked for a text. */
export type RequestGenerateOptions = ContinuationOptions & RequestOptions;

/** One base model in memory, and any number of adapters that requests choose from. */
export interface ServedModel {
  /** Layers that adapters may act on. */
  readonly modules: readonly TargetModule[];
  /**
   * Makes an adapter (null: none) the one of following requests that name none. Its folder is read at the first
   * use and remembered; switching between known adapters does no work. Errors: MODEL_ADAPTER_*, ADAPTER_MISMATCH,
   * MODEL_NO_SITE.
   */
  use(adapter: string | null): void;
  /** Forgets an adapter's numbers; the next use reads its folder anew. */
  forget(adapter: string): void;
  /**
   * Continues one prompt, or several, of which those of equal token length run as one batch (each beam search is one
   * of its own). `onText` is called for a single prompt only.
   */
  generate(prompt: string, options?: RequestGenerateOptions): Promise<GenerateResult>;
  generate(prompts: readonly string[], options?: RequestGenerateOptions): Promise<GenerateResult[]>;
  /** Logits of each example; all run as one batch, padded on the right. */
  logits(inputs: readonly ModelInput[], options?: RequestOptions): Promise<Logits[]>;
  /** Classes of each example, by the model's head or by the one that the adapter brings. */
  classify(inputs: readonly ModelInput[], options?: RequestOptions): Promise<Classification[]>;
  close(): Promise<void>;
}
