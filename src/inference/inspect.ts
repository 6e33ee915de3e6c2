import { relative } from 'node:path';
import { z } from 'zod';
import { resolveBudget } from '../adapters/budget.ts';
import { injectGatedLowRank } from '../adapters/lowRank.ts';
import type { LinearModule, ModuleRole } from '../adapters/module.ts';
import { selectTargets } from '../adapters/selection.ts';
import { defineStrategy } from '../adapters/strategy.ts';
import { chunkLengths } from '../autodiff/chunkedLoss.ts';
import { uncovered } from '../autodiff/differentiate.ts';
import { describe, type Model } from '../onnx/graph.ts';
import { suitDevice } from '../passes/suitDevice.ts';
import { adaptBackbone } from '../runtime/adaptBackbone.ts';
import { type BackboneKind, rowsOfExample } from '../runtime/backbone.ts';
import { type Compute, openInt8, requireInt8 } from '../runtime/compute.ts';
import { type MissingKernel, missingKernels } from '../runtime/deviceKernels.ts';
import { activationBytes, weightBytes } from '../runtime/memory.ts';
import { worthPacking } from '../runtime/prepacking.ts';
import type { Device } from '../runtime/session.ts';
import { evaluationGraph, partPasses, stepGraph } from '../runtime/trainingGraph.ts';
import { fetchModel, type OpenedModel } from '../training/assemble.ts';
import { contextOf } from '../training/data.ts';

/** What `inspect` assumes of a run. */
export interface InspectOptions {
  readonly file?: string;
  /** As model.targets of the run file. */
  readonly targets?: 'all-linear' | readonly string[];
  readonly modulesToSave?: readonly string[];
  /** Batch for the memory estimate; default 16 rows of 128 tokens. */
  readonly batchSize?: number;
  readonly maxLength?: number;
  /** As train.recompute. */
  readonly recompute?: boolean;
  /** As model.compute, for the memory estimate. Errors: COMPUTE_NOTHING. */
  readonly compute?: Compute;
  /** Also lists the operators of the training step that this device leaves to the CPU. */
  readonly device?: Device;
}

/** A linear layer of a model, and what adapting it costs. */
export interface ModuleSummary {
  readonly name: string;
  readonly in: number;
  readonly out: number;
  /** Adapter scalars of one rank: in + out. */
  readonly costOfOneRank: number;
  readonly role: ModuleRole;
  /** Whether the targets choose it. */
  readonly target: boolean;
}

/** What can be known of a model without training it. */
export interface Inspection {
  readonly folder: string;
  readonly file: string;
  readonly backbone: string;
  readonly kind: BackboneKind;
  readonly opset: number;
  readonly producer: string;
  readonly parameters: number;
  readonly contextLength: number | undefined;
  readonly inputs: readonly string[];
  readonly output: string;
  readonly modules: readonly ModuleSummary[];
  /** Scalars of uniform LoRA of rank 1 on the targets. */
  readonly costOfUniformRank: number;
  /** Operators on the way to the loss that have no gradient, and where. */
  readonly uncovered: readonly { readonly op: string; readonly node: string }[];
  /** Operators of the training step that the device asked for has no kernel for; empty without `device`. */
  readonly onCpu: readonly MissingKernel[];
  /**
   * Estimated peak resident bytes of `train` on CPU with LoRA of rank 8 and every token labelled, as the operating
   * system counts them.
   */
  readonly memory: {
    readonly batchSize: number;
    readonly maxLength: number;
    readonly recompute: boolean;
    readonly compute: Compute;
    readonly weights: number;
    /** Intermediate tensors: of step or evaluation, which take turns; of both where their sessions pack weights. */
    readonly activations: number;
    readonly total: number;
  };
}

/** Node, ONNX Runtime, tokenizer and our own objects, and what grows with the arenas beside them: Linux x64. */
const processBytes = 205e6;
const besideArenas = 1.11;

const probeStrategy = defineStrategy({
  name: 'probe',
  options: z.strictObject({}),
  plan: () => ({ initial: [], peak: 0, final: 0, average: 0 }),
  inject: (graph, module) => injectGatedLowRank(graph, module),
});

/** Looks at a model: modules under PEFT's names with their cost, operators without a gradient, memory. */
export async function inspectModel(path: string, options: InspectOptions = {}): Promise<Inspection> {
  const opened = await fetchModel({ path, file: options.file, device: options.device });
  try {
    const { directory, backbone, linear } = opened;
    const targets = selectTargets(linear, options.targets ?? 'all-linear', {
      modulesToSave: options.modulesToSave,
    });
    const chosen = new Set(targets.map(({ name }) => name));
    const missing = uncoveredOf(opened, targets);
    const output = backbone.model.graph.findOutput(backbone.output);
    const trainable =
      missing.length === 0 && (backbone.kind !== 'encoder' || typeof output?.shape?.at(-1) === 'number');
    const graphs = trainable ? await graphsOf(opened, targets, options) : undefined;
    const computed = graphs?.step ?? backbone.model;
    return {
      folder: directory.folder,
      file: relative(directory.folder, directory.file),
      backbone: String(
        (directory.config.architectures as string[] | undefined)?.[0] ??
          directory.config.model_type ??
          'unknown',
      ),
      kind: backbone.kind,
      opset: backbone.model.opsets.get('') ?? 0,
      producer: backbone.model.producer,
      parameters: backbone.parameters,
      contextLength: contextOf(directory.config),
      inputs: backbone.model.graph.inputs.map(
        ({ name, dtype, shape }) => `${name}: ${dtype}[${(shape ?? []).join(', ')}]`,
      ),
      output: backbone.output,
      modules: linear.map((module) => ({
        name: module.name,
        in: module.in,
        out: module.out,
        costOfOneRank: module.in + module.out,
        role: module.role,
        target: chosen.has(module.name),
      })),
      costOfUniformRank: resolveBudget(targets, { rank: 1 }).parameters,
      uncovered: missing,
      onCpu: options.device ? missingKernels(computed.graph, options.device) : [],
      memory: estimate(opened, graphs, options),
    };
  } finally {
    opened.workspace.close();
  }
}

function uncoveredOf(
  { backbone }: OpenedModel,
  targets: readonly LinearModule[],
): { op: string; node: string }[] {
  const { graph } = backbone.model;
  const output = graph.findOutput(backbone.output) ?? graph.outputs[0]!;
  return uncovered(
    graph,
    [output],
    targets.map((module) => module.output),
  ).map(({ op, node }) => ({ op, node: describe(node) }));
}

interface Graphs {
  readonly step: Model;
  readonly evaluation: Model;
}

/** Step and evaluation with plain LoRA on the targets, as the device runs them. */
async function graphsOf(
  { backbone, workspace }: OpenedModel,
  targets: readonly LinearModule[],
  { recompute, device, compute }: InspectOptions,
): Promise<Graphs> {
  const adapted = adaptBackbone(backbone, {
    strategy: probeStrategy,
    options: {},
    targets,
    // An encoder trains under a new classifier.
    ...(backbone.kind === 'encoder'
      ? { classifier: { classes: 2, pooling: isPooled(backbone.output) ? 'none' : 'mean' } as const }
      : {}),
    budget: { parameters: 0, rank: 8, at: 'final' },
  });
  const graphs = {
    step: stepGraph(adapted, { recompute, device }),
    evaluation: evaluationGraph(adapted, { device }),
  };
  for (const graph of Object.values(graphs)) suitDevice(graph, device ?? 'cpu');
  partPasses(graphs.step);
  if (compute === 'int8') {
    const toInt8 = openInt8(workspace, adapted.outputWeights);
    await toInt8(graphs.evaluation);
    requireInt8(await toInt8(graphs.step));
  }
  return graphs;
}

const isPooled = (output: string) => output === 'sentence_embedding';

function estimate(
  { backbone }: OpenedModel,
  graphs: Graphs | undefined,
  { batchSize = 16, maxLength = 128, recompute = false, compute = 'float32' }: InspectOptions,
): Inspection['memory'] {
  const weights = weightBytes(backbone.model);
  const shape = { batchSize, maxLength, recompute, compute, weights };
  if (!graphs) return { ...shape, activations: 0, total: processBytes + weights };
  const labels = batchSize * rowsOfExample(backbone.kind, maxLength);
  const lengths: Record<string, number> = { labels, ...chunkLengths('labels', labels) };
  for (const input of graphs.step.graph.inputs)
    input.shape?.forEach((dim, axis) => {
      if (typeof dim !== 'string') return;
      if (dim.endsWith('.rank')) lengths[dim] = 8;
      else if (!(dim in lengths)) lengths[dim] = axis === 0 ? batchSize : maxLength;
    });
  const sessionOf = (model: Model) => ({
    mapped: weightBytes(model),
    activations: Math.round(besideArenas * activationBytes(model, lengths).arena),
  });
  const [step, evaluation] = [sessionOf(graphs.step), sessionOf(graphs.evaluation)];
  // The step's 8-bit products keep a packed copy beside the file.
  if (compute === 'int8') step.mapped += weightBytes(graphs.step, 'int8');
  // Where weights are packed, both sessions stay open; else one is closed while the other works.
  const stayOpen = compute === 'int8' || worthPacking(graphs.evaluation.graph, 'batches');
  const larger =
    step.mapped + step.activations > evaluation.mapped + evaluation.activations ? step : evaluation;
  const open = stayOpen ? [step, evaluation] : [larger];
  const sum = (key: keyof typeof step) => open.reduce((total, session) => total + session[key], 0);
  const activations = sum('activations');
  return { ...shape, activations, total: processBytes + sum('mapped') + activations };
}
