import { localModel } from '../runtime/hub.ts';
import { findModel } from '../runtime/modelDirectory.ts';
import type { RuntimeOptions } from '../runtime/session.ts';
import { generateText } from '../runtime/textGeneration.ts';
import { openWorkspace } from '../runtime/workspace.ts';
import { loadTokenizer } from '../tasks/tokenizer.ts';
import { openDecoder } from '../training/openDecoder.ts';
import { continuationOf, generationSettings } from './continuation.ts';

/** What `generate` continues, and how. */
export interface GenerateOptions extends Partial<RuntimeOptions> {
  /** Model directory (base or merged), or an .onnx file. */
  readonly model: string;
  readonly file?: string;
  /** Adapter folder in PEFT format. */
  readonly adapter?: string;
  readonly prompt: string;
  readonly maxNewTokens?: number;
  /** Above 0: sampling; 0 or absent: greedy. */
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly repetitionPenalty?: number;
  /** Above 1: beam search with so many beams; not together with a temperature. */
  readonly beams?: number;
  readonly seed?: number;
  /** Called with each piece of text as it is written; not by beam search. */
  readonly onText?: (text: string) => void;
  readonly signal?: AbortSignal;
}

/** A continuation, and how it ended. */
export interface GenerateResult {
  readonly prompt: string;
  /** The new text, special tokens left out. */
  readonly text: string;
  readonly tokens: number;
  readonly finish: 'end' | 'length' | 'interrupted';
  readonly tokensPerSecond: number;
}

/** Continues a prompt with a model, or with a model and an adapter. */
export async function generateFrom(options: GenerateOptions): Promise<GenerateResult> {
  const path = await localModel(options.model, options.file);
  const directory = findModel(path, { file: options.file, purpose: 'generation' });
  const tokenizer = await loadTokenizer(directory.folder);
  const runtime = { device: options.device ?? 'cpu', threads: options.threads ?? 0 } as const;
  const prompt = tokenizer.encode(options.prompt).ids;
  const settings = generationSettings({ directory, tokenizer }, options);
  const workspace = openWorkspace();
  try {
    const { decoder, close } = await openDecoder(directory, options.adapter, workspace, runtime);
    const begun = performance.now();
    const generation = await generateText(decoder, prompt, settings).finally(close);
    const seconds = (performance.now() - begun) / 1000;
    return { prompt: options.prompt, ...continuationOf({ tokenizer }, generation, seconds) };
  } finally {
    workspace.close();
  }
}
