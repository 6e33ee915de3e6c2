import type {
  AdapterStrategy,
  AllocationReport,
  Budget,
  GateGradients,
  GateSetting,
  HostTrainer,
  ParameterSpec,
  TargetModule,
} from 'onnx-alora/strategy';
import { AdapterSet, randomStream } from 'onnx-alora/strategy';
import { type ModuleSite, openRewriter } from '../../src/adapters/rewriter.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';

/** Modules of the given sizes, `perBlock` of them in each block. */
export function modulesOf(sizes: readonly (readonly [number, number])[], perBlock = sizes.length) {
  return sizes.map(([input, output], index): TargetModule => {
    const block = Math.floor(index / perBlock);
    const kind = `m${index % perBlock}`;
    return { name: `blocks.${block}.${kind}`, index, in: input, out: output, block, kind };
  });
}

/** What the injected nodes declare, by module. */
export function declared<O>(
  strategy: AdapterStrategy<O>,
  modules: readonly TargetModule[],
  budget: Budget,
  options: O,
): ReadonlyMap<TargetModule, readonly ParameterSpec[]> {
  const graph = new Graph();
  const sites = new Map<TargetModule, ModuleSite[]>();
  const builder = new Builder(graph, '/base');
  for (const module of modules) {
    const input = graph.input(`${module.name}.x`, 'float32', ['n', module.in]);
    const weight = builder.constant(
      module.name,
      Tensor.float32(new Float32Array(module.in * module.out), [module.in, module.out]),
    );
    const output = builder.op('MatMul', [input, weight], { dtype: 'float32', shape: ['n', module.out] });
    graph.outputs.push(output);
    sites.set(module, [{ input, output, weight: { value: weight, layout: 'in-out' } }]);
  }
  const { parameters, injectAt } = openRewriter(graph, sites, { budget });
  for (const module of modules) injectAt(module, (rewriter) => strategy.inject(rewriter, module, options));
  return parameters;
}

export interface FakeOptions {
  readonly totalSteps?: number;
  readonly stepsPerEpoch?: number;
  readonly seed?: number;
  /** Loss of a gate setting; default: 1. */
  readonly loss?: (setting: GateSetting, adapters: AdapterSet) => number;
  readonly gateGradients?: (on: 'all' | 'none' | 'current', data: 'dev' | 'heldBack') => GateGradients;
  readonly devRows?: number;
}

/** A host without a model: the test moves parameters, gradients and steps itself. */
export function fakeHost<O>(
  strategy: AdapterStrategy<O>,
  modules: readonly TargetModule[],
  budget: Budget,
  options: O,
  fake: FakeOptions = {},
) {
  const { totalSteps = 100, stepsPerEpoch = 20, seed = 0, loss = () => 1, devRows = 1000 } = fake;
  const plan = strategy.plan(modules, budget, options, { totalSteps, stepsPerEpoch });
  const adapters = new AdapterSet(modules, declared(strategy, modules, budget, options), plan.initial, seed);
  const events: AllocationReport[] = [];
  const settingsAsked: GateSetting[][] = [];
  const host = {
    step: 0,
    totalSteps,
    stepsPerEpoch,
    adapters,
    random: (...keys: (number | string)[]) => randomStream(seed, ...keys),
    async losses(settings: readonly GateSetting[]) {
      settingsAsked.push([...settings]);
      return Float64Array.from(settings, (setting) => loss(setting, adapters));
    },
    async gateGradients(on: 'all' | 'none' | 'current', data: 'dev' | 'heldBack') {
      if (!fake.gateGradients) throw new Error('no gate gradients in this test');
      return fake.gateGradients(on, data);
    },
    prune: (module: TargetModule, ranks: readonly number[]) => adapters.prune(module, ranks),
    grow: (module: TargetModule, count: number) => adapters.grow(module, count),
    devBatch: (examples: number) => Math.min(examples, devRows),
    log: (event: AllocationReport) => {
      events.push(event);
    },
  } satisfies HostTrainer;
  const outline = { totalSteps, stepsPerEpoch, modules, budget, plan, seed };
  return { host, adapters, plan, events, settingsAsked, outline };
}

/** A random gradient in every entry, the same for the same step. */
export function randomGradients(adapters: AdapterSet, step: number): void {
  const random = randomStream(7, step);
  for (let i = 0; i < adapters.gradients.length; i++) adapters.gradients[i] = random.normal();
}

/** w -= rate * gradient on everything that trains. */
export function descend(adapters: AdapterSet, rate: number): void {
  for (const slot of adapters.slots) {
    if (!slot.spec.trained) continue;
    const values = adapters.view('values', slot);
    const gradients = adapters.view('gradients', slot);
    for (let i = 0; i < values.length; i++) values[i]! -= rate * gradients[i]!;
  }
}

export const rankBudget = (
  modules: readonly TargetModule[],
  rank: number,
  at: Budget['at'] = 'final',
): Budget => ({
  parameters: rank * modules.reduce((sum, module) => sum + module.in + module.out, 0),
  rank,
  at,
});
