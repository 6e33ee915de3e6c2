import { relative } from 'node:path';
import { z } from 'zod';
import { resolveBudget } from '../adapters/budget.ts';
import { injectGatedLowRank } from '../adapters/lowRank.ts';
import type { LinearModule, ModuleRole } from '../adapters/module.ts';
import { selectTargets } from '../adapters/selection.ts';
import { defineStrategy } from '../adapters/strategy.ts';
import { uncovered } from '../autodiff/differentiate.ts';
import { cloneModel } from '../onnx/clone.ts';
import { describe, type Model } from '../onnx/graph.ts';
import { linearModules } from '../runtime/backbone.ts';
import { type MissingKernel, missingKernels } from '../runtime/deviceKernels.ts';
import { peakActivationBytes, weightBytes } from '../runtime/memory.ts';
import type { Device } from '../runtime/session.ts';
import { adapt, stepGraph } from '../runtime/trainingGraph.ts';
import { fetchModel, type OpenedModel } from '../training/assemble.ts';
import { contextOf } from '../training/data.ts';

export interface InspectOptions {
  readonly file?: string;
  /** As model.targets of the run file. */
  readonly targets?: 'all-linear' | readonly string[];
  readonly modulesToSave?: readonly string[];
  /** Batch for the memory estimate; default 16 rows of 128 tokens. */
  readonly batchSize?: number;
  readonly maxLength?: number;
  /** Also lists the operators of the training step that this device leaves to the CPU. */
  readonly device?: Device;
}

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
  readonly kind: 'causal' | 'sequence' | 'encoder';
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
  /** Estimated bytes of a training process on CPU with LoRA of rank 8. */
  readonly memory: {
    readonly batchSize: number;
    readonly maxLength: number;
    readonly weights: number;
    readonly activations: number;
    readonly total: number;
  };
}

/** Node, ONNX Runtime and our own code, measured on Linux x64. */
const processBytes = 150e6;

const probeStrategy = defineStrategy({
  name: 'probe',
  options: z.strictObject({}),
  plan: () => ({ initial: [], peak: 0, final: 0, average: 0 }),
  inject: (graph, module) => injectGatedLowRank(graph, module),
});

/** Looks at a model: modules under PEFT's names with their cost, operators without a gradient, memory. */
export async function inspectModel(path: string, options: InspectOptions = {}): Promise<Inspection> {
  const opened = await fetchModel({ path, file: options.file });
  try {
    const { directory, backbone, linear } = opened;
    const targets = selectTargets(linear, options.targets ?? 'all-linear', {
      modulesToSave: options.modulesToSave,
    });
    const chosen = new Set(targets.map(({ name }) => name));
    const missing = uncoveredOf(opened, targets);
    const step =
      missing.length === 0 && opened.backbone.kind !== 'encoder' ? stepOf(opened, targets) : undefined;
    const computed = step ?? opened.backbone.model;
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
      memory: estimate(opened, step, options),
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

/** The training step with plain LoRA on the targets. */
function stepOf({ backbone }: OpenedModel, targets: readonly LinearModule[]): Model {
  const model = cloneModel(backbone.model);
  const cloned = new Map(
    linearModules({ model, config: backbone.config }).map((module) => [module.name, module]),
  );
  const adapted = adapt(
    { ...backbone, model },
    {
      strategy: probeStrategy,
      options: {},
      targets: targets.map(({ name, index }) => ({ ...cloned.get(name)!, index })),
      budget: { parameters: 0, rank: 8, at: 'final' },
    },
  );
  return stepGraph(adapted);
}

function estimate(
  { backbone }: OpenedModel,
  step: Model | undefined,
  { batchSize = 16, maxLength = 128 }: InspectOptions,
): Inspection['memory'] {
  const weights = weightBytes(backbone.model);
  if (!step) return { batchSize, maxLength, weights, activations: 0, total: processBytes + weights };
  const lengths: Record<string, number> = {
    labels: backbone.kind === 'causal' ? batchSize * maxLength : batchSize,
  };
  for (const input of step.graph.inputs)
    input.shape?.forEach((dim, axis) => {
      if (typeof dim !== 'string') return;
      if (dim.endsWith('.rank')) lengths[dim] = 8;
      else if (!(dim in lengths)) lengths[dim] = axis === 0 ? batchSize : maxLength;
    });
  const activations = peakActivationBytes(step, lengths);
  return { batchSize, maxLength, weights, activations, total: processBytes + weights + activations };
}
