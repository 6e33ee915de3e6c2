import type { LinearModule, ModelConfig } from '../adapters/module.ts';
import { findLinearModules } from '../adapters/targets.ts';
import { AloraError } from '../errors.ts';
import { readModel } from '../onnx/decode.ts';
import type { Model, Value } from '../onnx/graph.ts';
import { prepareForTraining } from '../passes/index.ts';
import type { ModelDirectory } from './modelDirectory.ts';
import type { Workspace } from './workspace.ts';

/** What the model predicts: tokens at each position, a class for each row, or nothing yet (an encoder). */
export type BackboneKind = 'causal' | 'sequence' | 'encoder';

/** A frozen model made ready for adapters: lowered, without cache, typed, its weights in the workspace. */
export interface Backbone {
  readonly kind: BackboneKind;
  readonly model: Model;
  readonly config: ModelConfig;
  /** The value that predictions are read from: logits, or the hidden state of a bare encoder. */
  readonly output: string;
  /** Scalars of all float weights. */
  readonly parameters: number;
}

/** Outputs that a training graph may start from, in order of preference. */
const outputNames = [
  'logits',
  'last_hidden_state',
  'sentence_embedding',
  'token_embeddings',
  'hidden_states',
];

/**
 * Reads an inference model and prepares it for training (see passes/index.ts). Errors name the node that
 * stands in the way.
 */
export function loadBackbone(directory: ModelDirectory, workspace: Workspace): Backbone {
  const model = readModel(directory.file);
  if ((model.opsets.get('') ?? 0) < 13)
    throw new AloraError('model', 'MODEL_OPSET', 'The model uses an operator set that is too old', {
      where: directory.file,
      got: `ai.onnx ${model.opsets.get('')}`,
      allowed: 'ai.onnx 13 or newer',
      fix: 'Export the model again, with opset 17 for example.',
    });
  const output = chooseOutput(model, directory);
  prepareForTraining(model, { outputs: [output.name] });
  workspace.shareWeights(model.graph);
  const value = model.graph.findOutput(output.name) ?? model.graph.outputs[0]!;
  return {
    kind: backboneKind(value, directory.config),
    model,
    config: directory.config,
    output: value.name,
    parameters: [...model.graph.initializers].reduce(
      (sum, { initializer }) => sum + (initializer!.dtype === 'float32' ? initializer!.size : 0),
      0,
    ),
  };
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
  if (output.name !== 'logits') return 'encoder';
  const architecture = String((config.architectures as string[] | undefined)?.[0] ?? '');
  if (/ForSequenceClassification/.test(architecture) || output.shape?.length === 2) return 'sequence';
  return 'causal';
}

/** The linear layers of a backbone, in graph order. */
export function linearModules(backbone: Pick<Backbone, 'model' | 'config'>): LinearModule[] {
  return findLinearModules(backbone.model, backbone.config);
}
