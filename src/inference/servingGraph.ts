import type { LinearModule, ModelConfig, ModuleUse } from '../adapters/module.ts';
import { selectTargets } from '../adapters/selection.ts';
import { constantOf, findLinearModules } from '../adapters/targets.ts';
import { Builder } from '../onnx/builder.ts';
import type { Model, Value } from '../onnx/graph.ts';
import { inferTypes } from '../passes/inferTypes.ts';
import { takeCacheBranch } from '../passes/inlineIf.ts';
import { separateProjections } from '../passes/lower.ts';
import { widen } from '../passes/widen.ts';

/** A layer of an inference graph that any adapter can act on, by feeding its inputs. */
export interface AdapterSite {
  readonly module: LinearModule;
  /** float32 [n, in, rank]; n is 1 (one adapter for the whole batch) or the batch size (one for each example). */
  readonly a: string;
  /** float32 [n, rank, out], the adapter's scale multiplied in. */
  readonly b: string;
  /** float32 [n, 1, out], added to the output; heads only, whose bias an adapter may replace. */
  readonly bias: string | undefined;
  /** Whether the examples of a batch may have adapters of their own: not where all share what the layer reads. */
  readonly mixes: boolean;
}

/** Symbolic name of the first dimension of all factors. */
export const adaptersDim = 'adapters';

/** Targets of the sites: as `model.targets` of the run file. */
export type SiteTargets = 'all-linear' | readonly string[];

/**
 * Makes an inference model adapter-ready, in place: beside each target the branch x A B, its factors graph inputs.
 * Operators, cache and outputs stay as exported. A rank of 0 switches a layer's branch off. Heads are always sites,
 * so that an adapter can bring its own (modules_to_save). `models`: one graph, or those of an encoder-decoder; a layer
 * that several of them have is one site.
 */
export function makeAdapterReady(
  models: readonly Model[],
  config: ModelConfig,
  targets: SiteTargets,
): AdapterSite[] {
  const graphs = models.map((model) => {
    // Branches would hide the layers; factors are float32.
    takeCacheBranch(model);
    widen(model);
    separateProjections(model);
    inferTypes(model);
    return { model, linear: findLinearModules(model, config) };
  });
  const all = graphs.flatMap(({ linear }) => linear);
  const chosen = new Set(selectTargets(all, targets).map(({ name }) => name));
  const sites = graphs.flatMap(({ model, linear }) => {
    const builder = new Builder(model.graph, '/adapters');
    const at = { builder, shapes: new BatchShapes(builder), replaced: new Map<Value, Value>() };
    const sites = linear
      .filter((module) => chosen.has(module.name) || module.role === 'head')
      .map((module) => addSite(at, module));
    inferTypes(model);
    return sites;
  });
  const byName = new Map<string, AdapterSite>();
  for (const site of sites) {
    const { name } = site.module;
    byName.set(name, { ...site, mixes: site.mixes && (byName.get(name)?.mixes ?? true) });
  }
  return [...byName.values()];
}

/** Where sites are written. */
interface Writing {
  readonly builder: Builder;
  readonly shapes: BatchShapes;
  /** What stands in the place of a layer's output. The next layer may read that output directly. */
  readonly replaced: Map<Value, Value>;
}

function addSite(at: Writing, module: LinearModule): AdapterSite {
  const { graph } = at.builder;
  const rank = `${module.name}.rank`;
  const a = graph.input(`${module.name}.lora_A`, 'float32', [adaptersDim, module.in, rank]);
  const b = graph.input(`${module.name}.lora_B`, 'float32', [adaptersDim, rank, module.out]);
  const bias =
    module.role === 'head'
      ? graph.input(`${module.name}.bias_delta`, 'float32', [adaptersDim, 1, module.out])
      : undefined;
  at.shapes.count ??= a;
  for (const use of module.uses) addBranch(at, module, use, a, b, bias);
  // Relative positions (DeBERTa) are [1, positions, in] whatever the batch.
  const mixes = module.uses.every(({ input }) => input.shape?.length !== 3 || input.shape[0] !== 1);
  return { module, a: a.name, b: b.name, bias: bias?.name, mixes };
}

function addBranch(
  { builder, shapes, replaced }: Writing,
  module: LinearModule,
  use: ModuleUse,
  a: Value,
  b: Value,
  bias: Value | undefined,
): void {
  // Behind the bias, so that ONNX Runtime can still fuse it into the product.
  const y = afterBias(use.output, module.out);
  // Rows of a batch stand one after another: a flattened [B * T, in] is [n, B * T / n, in] for either n.
  const batched = use.input.shape?.length === 3;
  const input = replaced.get(use.input) ?? use.input;
  const x = batched ? input : builder.op('Reshape', [input, shapes.split(module.in)]);
  let delta = builder.op('MatMul', [builder.op('MatMul', [x, a]), b]);
  if (bias) delta = builder.op('Add', [delta, bias]);
  if (!batched) delta = builder.op('Reshape', [delta, shapes.of(y, module.out)]);
  const sum = builder.op('Add', [y, delta], { dtype: 'float32', shape: y.shape });
  builder.graph.takePlace(y, sum, new Set([sum.producer!]));
  replaced.set(y, sum);
}

/** The sum with the layer's constant bias, where that is all that happens to the product. */
function afterBias(product: Value, out: number): Value {
  const [user, ...others] = product.users;
  if (user?.op !== 'Add' || others.length > 0) return product;
  const other = user.inputs[user.inputs[0] === product ? 1 : 0];
  return constantOf(other)?.tensor.size === out ? user.output : product;
}

/** Reshape targets of layers whose rows are flattened. */
class BatchShapes {
  /** A factor whose first dimension is the number of adapters. */
  count: Value | undefined;
  private readonly splits = new Map<number, Value>();
  constructor(private readonly builder: Builder) {}

  /** [n, -1, width]. */
  split(width: number): Value {
    let shape = this.splits.get(width);
    if (!shape) {
      const { builder } = this;
      const count = builder.op('Gather', [builder.op('Shape', [this.count!]), builder.ints([0])]);
      shape = builder.op('Concat', [count, builder.ints([-1, width])], { attributes: { axis: 0 } });
      this.splits.set(width, shape);
    }
    return shape;
  }

  /** The shape of a layer's output. */
  of(y: Value, width: number): Value {
    return y.shape?.length === 2 ? this.builder.ints([-1, width]) : this.builder.op('Shape', [y]);
  }
}
