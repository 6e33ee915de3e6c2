import { Builder } from '../onnx/builder.ts';
import type { Model, Value } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';
import { encoderOutputs, type Pooling, pool } from '../passes/pooling.ts';
import { readAdapterJson } from './jsonFile.ts';
import type { ModelConfig } from './module.ts';
import type { PeftAdapter } from './peft.ts';
import { hasHead } from './targets.ts';

/** File beside a saved adapter that brings a classifier for an encoder without one. */
export const classifierFile = 'classifier.json';

/** What PEFT's files do not say of a new classifier. */
export interface ClassifierNotes {
  readonly pooling: Pooling;
  /** Names of the classes in the order of the logits. */
  readonly labels: readonly string[];
}

export function readClassifierNotes(folder: string): ClassifierNotes | undefined {
  return readAdapterJson(folder, classifierFile) as ClassifierNotes | undefined;
}

/** A linear layer that an adapter saves in full and no file of the model has. */
export interface NewClassifier {
  readonly name: string;
  /** [classes, hidden]. */
  readonly weight: Tensor;
  readonly bias: Tensor | undefined;
}

/** The classifier among the saved layers that has no place in the model; undefined where all have one. */
export function newClassifierOf(
  { saved }: Pick<PeftAdapter, 'saved'>,
  isPlaced: (key: string) => boolean,
): NewClassifier | undefined {
  for (const [key, weight] of saved) {
    const name = /^(.*)\.weight$/.exec(key)?.[1];
    if (name === undefined || isPlaced(key) || weight.dims.length !== 2) continue;
    return { name, weight, bias: saved.get(`${name}.bias`) };
  }
  return undefined;
}

/** What a classifier would read in a file: hidden states [B, T, H], or an embedding [B, H]; undefined with a head. */
export function encoderOutput({ graph }: Model): Value | undefined {
  if (hasHead(graph)) return undefined;
  return encoderOutputs.flatMap((name) => graph.findOutput(name) ?? [])[0];
}

/** Adds `logits` [B, classes], or [B, T, classes] where nothing is pooled, to the encoder's outputs, in place. */
export function appendClassifier(
  model: Model,
  { name, weight, bias }: NewClassifier,
  pooling: Pooling,
): void {
  const { graph } = model;
  const output = encoderOutput(model)!;
  const make = new Builder(graph, `/${name.replaceAll('.', '/')}`);
  const hidden =
    output.dtype === 'float32' || output.dtype === null
      ? output
      : make.op('Cast', [output], { attributes: { to: 1 }, dtype: 'float32', shape: output.shape });
  const pooled =
    pooling === 'none'
      ? hidden
      : pool(graph.findInput('attention_mask') ?? null, make, model.opsets, hidden, pooling);
  const [classes = 0] = weight.dims;
  const matrix = graph.constant(`${name}.weight`, Tensor.float32(weight.toFloat32(), weight.dims));
  const product = make.op('MatMul', [
    pooled,
    make.op('Transpose', [matrix], { attributes: { perm: [1, 0] } }),
  ]);
  const logits = bias
    ? make.op('Add', [product, graph.constant(`${name}.bias`, Tensor.float32(bias.toFloat32(), [classes]))])
    : product;
  logits.dtype = 'float32';
  const lead = output.shape?.slice(0, givesTokens(output, pooling) ? 2 : 1) ?? ['batch_size'];
  logits.shape = [...lead, classes];
  logits.name = graph.unique('logits');
  graph.outputs = [logits, ...graph.outputs];
}

/** How a classifier reads an output: as was noted or asked for, else the mean of hidden states. */
export function poolingFor({ name, shape }: Value, asked: Pooling | undefined): Pooling {
  const isPooled = name === 'sentence_embedding' || shape?.length === 2;
  return isPooled ? 'none' : (asked ?? 'mean');
}

/** Whether a classifier over this output gives each token a class. */
export function givesTokens({ name, shape }: Value, pooling: Pooling): boolean {
  return pooling === 'none' && name !== 'sentence_embedding' && shape?.length !== 2;
}

/** config.json of a model that has become a classifier: its class and the names of its classes. */
export function classifierConfig(
  config: ModelConfig,
  classes: number,
  labels: readonly string[] | undefined,
  task: 'SequenceClassification' | 'TokenClassification',
): ModelConfig {
  const [given] = Array.isArray(config.architectures) ? (config.architectures as string[]) : [];
  const stem =
    given?.replace(/(Model|For[A-Z]\w*)$/, '') ?? String(config.model_type ?? '').replace(/^./, upper);
  const names = Array.from({ length: classes }, (_, i) => labels?.[i] ?? `LABEL_${i}`);
  return {
    ...config,
    architectures: [`${stem}For${task}`],
    id2label: Object.fromEntries(names.map((name, i) => [String(i), name])),
    label2id: Object.fromEntries(names.map((name, i) => [name, i])),
  };
}

const upper = (letter: string) => letter.toUpperCase();
