import type { LinearModule, TargetModule } from '../adapters/module.ts';
import { type ModuleSite, openRewriter, parameterInput, type RewriterOptions } from '../adapters/rewriter.ts';
import type { AdapterStrategy, ParameterSpec } from '../adapters/strategy.ts';
import { AloraError } from '../errors.ts';
import { Builder } from '../onnx/builder.ts';
import type { Model, Value } from '../onnx/graph.ts';
import type { Tensor } from '../onnx/tensor.ts';
import { gatherPooled } from '../passes/gatherPooled.ts';
import { gatherRows } from '../passes/gatherRows.ts';
import { inferTypes } from '../passes/inferTypes.ts';
import { type Pooling, pool } from '../passes/pooling.ts';
import { type Backbone, linearModules } from './backbone.ts';
import type { Seq2SeqTokens } from './seq2seq.ts';
import { headParameter, type TrainedHead, trainInFull } from './trainedHead.ts';

/** Names of the graph inputs that are added to the model's own. */
export const inputNames = {
  /** int64 [n]: positions in the flattened batch that predict the trained tokens. */
  rows: 'rows',
  /** int64 [n]: what to predict there. */
  targets: 'targets',
  /** float32 scalar: weight of a token's loss in the gradient, 1 / trained tokens of the step. */
  lossScale: 'loss_scale',
  /** float32 scalar: weight of the strategy's penalty, 1 on one micro-batch of a step, else 0. */
  penaltyScale: 'penalty_scale',
} as const;

export const outputNames = {
  /** float32 [n]: cross-entropy of each trained token, in nats. */
  losses: 'losses',
  /** int64 [n]: the most likely token or class. */
  predictions: 'predictions',
  /** float32 [n, V]: logits at the rows. */
  rowLogits: 'row_logits',
  /** float32 scalar. */
  penalty: 'penalty',
} as const;

/** A model with adapters and loss, before differentiation. */
export interface AdaptedModel {
  readonly model: Model;
  /** The same with fused operators, for evaluation; absent where the file has none. */
  readonly forward?: Model;
  readonly modules: readonly TargetModule[];
  /** Parameters of each adapted module and head. */
  readonly parameters: ReadonlyMap<TargetModule, readonly ParameterSpec[]>;
  /** s of each module by name, where it has the low-rank form. */
  readonly scalings: ReadonlyMap<string, number | undefined>;
  readonly heads: readonly TrainedHead[];
  readonly penalised: boolean;
  /** Weights of output embedding and heads, with the width of what they read. */
  readonly outputWeights: ReadonlyMap<Tensor, number>;
  readonly seq2seq?: Seq2SeqTokens;
  /** How the new classifier reads the encoder, where there is one. */
  readonly pooling?: Pooling;
}

export interface AdaptOptions<Options> extends RewriterOptions {
  readonly strategy?: AdapterStrategy<Options>;
  readonly options?: Options;
  /** Layers to adapt; must belong to the backbone's model. */
  readonly targets: readonly LinearModule[];
  /** Layers of the file to train in full. */
  readonly saved?: readonly LinearModule[];
  /** A new linear classifier on an encoder's output, pooled or as it is: `none` on [B, T, H] gives each token a class. */
  readonly classifier?: { readonly classes: number; readonly pooling: Pooling };
}

/**
 * Adds adapters, heads and the loss to a backbone. The backbone's model is changed; give it a clone.
 * The result computes `losses`, `predictions` and `row_logits` at the labelled rows only: the rows are gathered
 * before everything that works position by position, so head and last feed-forward see no other row.
 */
export function adapt<Options>(backbone: Backbone, options: AdaptOptions<Options>): AdaptedModel {
  const { model } = backbone;
  const { graph } = model;
  const builder = new Builder(graph, '/training');
  const outputs = linearModules(backbone).filter(({ role }) => role !== 'linear');
  const sites = new Map<TargetModule, ModuleSite[]>(
    options.targets.map((module) => [
      module,
      module.uses.map(({ input, output, weight }) => ({ input, output, weight })),
    ]),
  );
  const session = openRewriter(graph, sites, options);
  const injections = options.targets.map((module) =>
    session.injectAt(module, (rewriter) => options.strategy!.inject(rewriter, module, options.options!)),
  );
  const heads = (options.saved ?? []).map((module) => trainInFull(model.graph, module));
  let logits = graph.outputs.find((value) => value.name === backbone.output) ?? graph.outputs[0]!;
  if (options.classifier) {
    const added = addClassifier(model, builder, logits, options.classifier);
    logits = added.logits;
    heads.push(added.head);
  }
  const penalty =
    injections.length > 0
      ? options.strategy?.penalty?.(session.rewriter, injections, options.options!)
      : undefined;
  const rows = graph.input(inputNames.rows, 'int64', ['labels']);
  graph.outputs = penalty ? [logits, penalty] : [logits];
  inferTypes(model);
  gatherPooled(model);
  logits = graph.outputs[0]!;
  const rowLogits = gatherRows(model, logits, rows).output;
  rowLogits.name = graph.unique(outputNames.rowLogits);
  graph.outputs = [rowLogits];
  if (penalty) {
    penalty.name = graph.unique(outputNames.penalty);
    graph.outputs.push(penalty);
  }
  inferTypes(model);
  const parameters = new Map<TargetModule, readonly ParameterSpec[]>(session.parameters);
  for (const head of heads)
    parameters.set(
      head.module,
      head.parameters.map(({ spec }) => spec),
    );
  const { seq2seq } = backbone;
  const scalings = new Map(injections.map(({ module, scaling }) => [module.name, scaling]));
  return {
    model,
    modules: options.targets,
    parameters,
    scalings,
    heads,
    penalised: penalty !== undefined,
    outputWeights: new Map(
      outputs.flatMap((module) => module.uses.map(({ weight }) => [weight.tensor, module.in] as const)),
    ),
    seq2seq,
    pooling: options.classifier?.pooling,
  };
}

/** logits = hidden state, pooled or not, x W^T + b, W: [classes, hidden]. */
function addClassifier(
  { graph, opsets }: Model,
  builder: Builder,
  hidden: Value,
  { classes, pooling }: { readonly classes: number; readonly pooling: Pooling },
): { logits: Value; head: TrainedHead } {
  const width = hidden.shape?.at(-1);
  if (typeof width !== 'number')
    throw new AloraError('model', 'MODEL_HIDDEN_SIZE', "The width of the encoder's output is not known", {
      where: hidden.name,
      fix: 'Export the model with a fixed hidden size.',
    });
  const module: TargetModule = {
    name: 'classifier',
    index: 0,
    in: width,
    out: classes,
    block: null,
    kind: 'classifier',
  };
  const pooled =
    pooling === 'none'
      ? hidden
      : pool(graph.findInput('attention_mask') ?? null, builder, opsets, hidden, pooling);
  const specs = [headParameter('weight', classes, width), headParameter('bias', classes, 1)];
  const weight = graph.input(parameterInput(module, 'weight'), 'float32', [classes, width]);
  const bias = graph.input(parameterInput(module, 'bias'), 'float32', [classes]);
  const shape = [...(pooled.shape ?? [null]).slice(0, pooled.shape?.length === 3 ? 2 : 1), classes];
  let logits: Value;
  if (shape.length === 2)
    logits = builder.op('Gemm', [pooled, weight, bias], {
      attributes: { transB: 1 },
      dtype: 'float32',
      shape,
    });
  else {
    const turned = builder.op('Transpose', [weight], { dtype: 'float32', shape: [width, classes] });
    const product = builder.op('MatMul', [pooled, turned], { dtype: 'float32', shape });
    logits = builder.op('Add', [product, bias], { dtype: 'float32', shape });
  }
  return {
    logits,
    head: { module, parameters: specs.map((spec) => ({ spec, start: null })), layout: 'out-in' },
  };
}
