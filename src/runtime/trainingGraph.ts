import type { TargetModule } from '../adapters/module.ts';
import { parameterInput } from '../adapters/rewriter.ts';
import { chunkedLoss, chunkedPredictions, findHead } from '../autodiff/chunkedLoss.ts';
import { crossEntropy } from '../autodiff/crossEntropy.ts';
import { differentiate, type Seed } from '../autodiff/differentiate.ts';
import { AloraError } from '../errors.ts';
import { Builder } from '../onnx/builder.ts';
import { cloneModel } from '../onnx/clone.ts';
import type { Model, Value } from '../onnx/graph.ts';
import { leavesLast } from '../passes/executionOrder.ts';
import { partLengths } from '../passes/partLengths.ts';
import { keepOutputs } from '../passes/prune.ts';
import { dependents, recompute } from '../passes/recompute.ts';
import { repeatCheap } from '../passes/repeatCheap.ts';
import { findSegments } from '../passes/segments.ts';
import { type AdaptedModel, inputNames, outputNames } from './adaptedModel.ts';
import type { Device } from './session.ts';

/** Name of the graph output with the gradient of a parameter. */
export function gradientOutput(module: TargetModule, role: string): string {
  return `${parameterInput(module, role)}.gradient`;
}

type WithTargets = ReturnType<typeof withTargets>;

/** A copy of the model with an input for the targets. */
function withTargets(adapted: Model) {
  const model = cloneModel(adapted);
  const { graph } = model;
  const builder = new Builder(graph, '/training');
  const targets = graph.input(inputNames.targets, 'int64', ['labels']);
  const rowLogits = graph.findOutput(outputNames.rowLogits)!;
  const name = (value: Value, as: string) => {
    value.name = graph.unique(as);
    return value;
  };
  return { model, builder, rowLogits, targets, name };
}

/** The forward graph, fused where the file is: losses, predictions and logits at the rows. */
export function logitsGraph(adapted: AdaptedModel): Model {
  const parts = withTargets(adapted.forward ?? adapted.model);
  return withOutputs(parts.model, [...outputsOf(parts, wholePredictions(parts)), parts.rowLogits]);
}

/** The same without the logits, which are never all in memory where there are many of them: losses and predictions. */
export function evaluationGraph(adapted: AdaptedModel, { device = 'cpu' }: OnDevice = {}): Model {
  const parts = withTargets(adapted.forward ?? adapted.model);
  const { model, builder, rowLogits, targets } = parts;
  const head = device === 'webgpu' ? undefined : findHead(model.graph, rowLogits, []);
  const found = head ? chunkedPredictions(model, builder, head, targets) : wholePredictions(parts);
  return withOutputs(model, outputsOf(parts, found));
}

interface Predictions {
  /** float32 [n], nats. */
  readonly losses: Value;
  /** int64 [n]. */
  readonly predictions: Value;
}

function wholePredictions({ model, builder, rowLogits, targets }: WithTargets): Predictions {
  const loss = crossEntropy(builder, rowLogits, targets, model.opsets.get('')!);
  return { losses: loss.nll, predictions: loss.argmax() };
}

const outputsOf = ({ name }: WithTargets, { losses, predictions }: Predictions): Value[] => [
  name(losses, outputNames.losses),
  name(predictions, outputNames.predictions),
];

function withOutputs(model: Model, outputs: readonly Value[]): Model {
  model.graph.outputs = [...outputs];
  keepOutputs(
    model.graph,
    outputs.map(({ name }) => name),
  );
  return model;
}

interface OnDevice {
  /** Where the graph is to run: WebGPU lacks kernels of the chunked loss. Default: cpu. */
  readonly device?: Device;
}

export interface StepOptions extends OnDevice {
  /** Keep only what crosses the borders between segments, and compute the rest again on the way back. */
  readonly recompute?: boolean;
}

/** The training step: losses and the gradient of every trained parameter. */
export function stepGraph(adapted: AdaptedModel, options: StepOptions = {}): Model {
  const trained = (module: TargetModule) => adapted.parameters.get(module)!.filter((spec) => spec.trained);
  const roles = (module: TargetModule) => trained(module).map((spec) => spec.role);
  return gradientGraph(adapted, roles, adapted.penalised, options);
}

/** dLoss/dgate of every module, for scorers. */
export function gateGradientGraph(adapted: AdaptedModel, { device }: OnDevice = {}): Model {
  const roles = (module: TargetModule) => (adapted.modules.includes(module) ? ['gate'] : []);
  return gradientGraph(adapted, roles, false, { device });
}

function gradientGraph(
  adapted: AdaptedModel,
  rolesOf: (module: TargetModule) => readonly string[],
  penalised: boolean,
  { recompute: again = false, device = 'cpu' }: StepOptions = {},
): Model {
  const { model, builder, rowLogits, targets, name } = withTargets(adapted.model);
  const { graph } = model;
  const wrt = [...adapted.parameters.keys()].flatMap((module) =>
    rolesOf(module).map((role) => ({ module, role, value: graph.findInput(parameterInput(module, role))! })),
  );
  const parameters = wrt.map(({ value }) => value);
  const head = device === 'webgpu' ? undefined : findHead(graph, rowLogits, parameters);
  const segments = again ? findSegments(model, head?.hidden ?? rowLogits) : undefined;
  const scale = graph.input(inputNames.lossScale, 'float32', []);
  const { losses, seed } = head
    ? chunkedLoss(model, builder, head, targets, scale)
    : wholeLoss(model, builder, rowLogits, targets, scale);
  name(losses, outputNames.losses);
  const seeds = [seed];
  if (penalised)
    seeds.push([graph.findOutput(outputNames.penalty)!, graph.input(inputNames.penaltyScale, 'float32', [])]);
  const opset = model.opsets.get('')!;
  const forward = new Set(graph.nodes);
  const cuts = segments ? dependents(graph, parameters, segments.cuts) : [];
  const gradients = differentiate(graph, seeds, [...parameters, ...cuts], { opset, prefix: '/gradient' });
  if (segments) recompute(graph, segments, forward, (cut) => gradients.get(cut) ?? undefined);
  else
    repeatCheap(
      graph,
      forward,
      seeds.map(([, gradient]) => gradient),
    );
  const outputs = wrt.map(({ module, role, value }) => {
    const gradient = gradients.get(value);
    if (!gradient)
      throw new AloraError('model', 'MODEL_NO_PATH', 'The loss does not depend on a trained parameter', {
        where: module.name,
        got: role,
        fix: 'Leave the module out of model.targets: nothing that it computes reaches the loss.',
      });
    gradient.name = graph.unique(gradientOutput(module, role));
    return gradient;
  });
  withOutputs(model, [losses, ...outputs]);
  leavesLast(graph);
  return model;
}

/** Keeps buffers of the forward pass from waiting for the backward pass (see partLengths); the last change to a graph. */
export function partPasses({ graph }: Model): void {
  const scale = graph.findInput(inputNames.lossScale);
  if (scale) partLengths(graph, scale);
}

/** Cross-entropy on all rows at once. Every row weighs the same: a vector of the scale, as long as the losses. */
function wholeLoss(
  { opsets }: Model,
  builder: Builder,
  rowLogits: Value,
  targets: Value,
  scale: Value,
): { losses: Value; seed: Seed } {
  const { nll, dLogits } = crossEntropy(builder, rowLogits, targets, opsets.get('')!);
  const length = builder.op('Shape', [nll], { dtype: 'int64', shape: [1] });
  const weights = builder.op('Expand', [scale, length], { dtype: 'float32', shape: nll.shape });
  return { losses: nll, seed: [rowLogits, dLogits(weights)] };
}
