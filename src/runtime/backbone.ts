import { existsSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import type { LinearModule, ModelConfig } from '../adapters/module.ts';
import { moduleName } from '../adapters/moduleNames.ts';
import { findLinearModules } from '../adapters/targets.ts';
import { AloraError } from '../errors.ts';
import { readModel } from '../onnx/decode.ts';
import type { Model, Value } from '../onnx/graph.ts';
import { prepareForTraining } from '../passes/index.ts';
import { joinEncoder, readsEncoder } from '../passes/joinEncoder.ts';
import { joinSpan } from '../passes/joinSpan.ts';
import { encoderOutputs } from '../passes/pooling.ts';
import { kernels } from './deviceKernels.ts';
import { generationConfig, type ModelDirectory } from './modelDirectory.ts';
import { type Seq2SeqTokens, seq2SeqTokens } from './seq2seq.ts';
import type { Device } from './session.ts';
import type { Workspace } from './workspace.ts';

/**
 * What the model predicts: the next token at each position, a class for each row, a class for each position (`tag`),
 * the two ends of a span, or nothing yet (an encoder).
 */
export type BackboneKind = 'causal' | 'sequence' | 'tag' | 'span' | 'encoder';

/** A frozen model made ready for adapters: lowered, without cache, typed, its weights in the workspace. */
export interface Backbone {
  readonly kind: BackboneKind;
  /** Of an encoder-decoder, joined to one graph of kind `causal`: the tokens that its inputs start and end with. */
  readonly seq2seq?: Seq2SeqTokens;
  readonly model: Model;
  /**
   * The same model with the fused operators of its file, for what needs no gradients; absent where there are none. Its
   * linear layers have the names of `model`'s.
   */
  readonly forward?: Model;
  readonly config: ModelConfig;
  /** The value that predictions are read from: logits, or the hidden state of a bare encoder. */
  readonly output: string;
  /** Scalars of all weights, quantised ones included. */
  readonly parameters: number;
}

/** Outputs that a training graph may start from, in order of preference. */
const outputNames = ['logits', ...encoderOutputs];

/**
 * Reads an inference model and prepares it for training (see passes/index.ts). Errors name the node that
 * stands in the way.
 */
export function loadBackbone(
  directory: ModelDirectory,
  workspace: Workspace,
  device: Device = 'cpu',
): Backbone {
  const model = readModel(directory.file);
  if ((model.opsets.get('') ?? 0) < 13)
    throw new AloraError('model', 'MODEL_OPSET', 'The model uses an operator set that is too old', {
      where: directory.file,
      got: `ai.onnx ${model.opsets.get('')}`,
      allowed: 'ai.onnx 13 or newer',
      fix: 'Export the model again, with opset 17 for example.',
    });
  const seq2seq = readsEncoder(model) ? withEncoder(model, directory) : undefined;
  const output = joinSpan(model) ?? chooseOutput(model, directory);
  const forward = prepareForTraining(model, { outputs: [output.name], forward: kernels[device] });
  workspace.shareWeights(model.graph, ...(forward ? [forward.graph] : []));
  const value = model.graph.findOutput(output.name) ?? model.graph.outputs[0]!;
  return {
    kind: backboneKind(value, directory.config),
    seq2seq,
    model,
    forward,
    config: directory.config,
    output: value.name,
    parameters: parametersOf(model),
  };
}

/** Scalars of float weights and of those behind DequantizeLinear, whose scales and zero points do not count. */
function parametersOf({ graph }: Model): number {
  let count = 0;
  for (const value of graph.initializers) {
    const places = [...value.users]
      .filter(({ op }) => op === 'DequantizeLinear')
      .map(({ inputs }) => inputs.indexOf(value));
    const { dtype, size } = value.initializer!;
    // Embeddings of 8 bits are looked up before they become floats.
    const isTable = /^u?int8$/.test(dtype) && [...value.users].some(({ op }) => op === 'Gather');
    if (places.length > 0 ? places.includes(0) : dtype === 'float32' || isTable) count += size;
  }
  return count;
}

/** Joins the encoder's file, which transformers.js keeps beside the decoder's. Errors: MODEL_NO_ENCODER. */
function withEncoder(model: Model, directory: ModelDirectory): Seq2SeqTokens {
  const { config } = directory;
  const encoder = readModel(encoderFile(directory));
  for (const { name, uses } of findLinearModules(encoder, config))
    for (const { node } of uses) node.metadata = new Map([...node.metadata, [moduleName, name]]);
  joinEncoder(model, encoder);
  return seq2SeqTokens(config, generationConfig(directory.folder));
}

/** Path of the encoder's file beside a decoder's. Errors: MODEL_NO_ENCODER. */
export function encoderFile({ file, folder }: ModelDirectory): string {
  const name = basename(file).replace(/^decoder(_with_past)?(_model)?(_merged)?/, 'encoder_model');
  const path = join(dirname(file), name);
  if (name === basename(file) || !existsSync(path))
    throw new AloraError(
      'model',
      'MODEL_NO_ENCODER',
      "The decoder reads an encoder's output, and the encoder is not there",
      {
        where: folder,
        got: relative(folder, file),
        allowed: `${relative(folder, path)} beside it`,
        fix: 'Keep both files of the export together: encoder_model.onnx and decoder_model.onnx, or both with the same ending.',
      },
    );
  return path;
}

function chooseOutput(model: Model, directory: ModelDirectory): Value {
  const { outputs } = model.graph;
  const named = outputNames.flatMap((name) => outputs.filter((value) => value.name === name));
  const chosen = named[0] ?? outputs[0];
  if (!chosen)
    throw new AloraError('model', 'MODEL_NO_OUTPUT', 'The graph has no output to learn from', {
      where: directory.file,
      allowed: outputNames,
      fix: 'Export the model with its head.',
    });
  return chosen;
}

function backboneKind(output: Value, config: ModelConfig): BackboneKind {
  if (output.name === 'span_logits') return 'span';
  if (output.name !== 'logits') return 'encoder';
  const architecture = String((config.architectures as string[] | undefined)?.[0] ?? '');
  if (/ForSequenceClassification/.test(architecture) || output.shape?.length === 2) return 'sequence';
  return /ForTokenClassification/.test(architecture) ? 'tag' : 'causal';
}

/** Rows of logits that an example of this many tokens has. */
export function rowsOfExample(kind: BackboneKind, length: number): number {
  if (kind === 'span') return 2;
  return kind === 'causal' || kind === 'tag' ? length : 1;
}

/** The linear layers of a backbone, in graph order. */
export function linearModules(backbone: Pick<Backbone, 'model' | 'config'>): LinearModule[] {
  return findLinearModules(backbone.model, backbone.config);
}
