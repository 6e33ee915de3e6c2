import type { z } from 'zod';
import type { AttributeInit, Dim, Value } from '../onnx/graph.ts';
import type { Random } from '../random.ts';
import type { TargetModule } from './module.ts';

/** Which count of adapter scalars has to meet the budget; all three are always reported. */
export type BudgetMoment = 'final' | 'peak' | 'average';

/** What a run may spend, in adapter scalars. Heads (modulesToSave) are not counted. */
export interface Budget {
  /** N: the number of scalars. For `rank: k`, what uniform LoRA of rank k costs on the chosen modules. */
  readonly parameters: number;
  /** The uniform rank that N stands for (exact for `rank: k`, else rounded down, at least 1). */
  readonly rank: number;
  readonly at: BudgetMoment;
}

/** The schedule of a run, known before its first step. All counts are optimizer steps. */
export interface RunOutline {
  readonly totalSteps: number;
  readonly stepsPerEpoch: number;
  readonly modules: readonly TargetModule[];
  readonly budget: Budget;
  readonly plan: RankPlan;
  readonly seed: number;
  /** Rows that losses and gate gradients can be taken on; undefined where the host does not say. */
  readonly devRows?: number;
}

/** Ranks at the start, and what they are planned to cost. Parameters count trained gates. */
export interface RankPlan {
  /** Initial rank by module index; 0 leaves the module without an adapter. */
  readonly initial: readonly number[];
  readonly peak: number;
  readonly final: number;
  readonly average: number;
}

/** How the rows of a parameter start; each row draws from a stream of its own, so order does not matter. */
export type Initializer =
  | { readonly kind: 'zeros' }
  | { readonly kind: 'ones' }
  /** Uniform in [-bound, bound). */
  | { readonly kind: 'uniform'; readonly bound: number }
  | { readonly kind: 'normal'; readonly std: number };

/** A tensor that the injected nodes read as a graph input and that the host stores row by row. */
export interface ParameterSpec {
  /** Its role within the module: `lora_A`, `gate`, `lora_B`, or a strategy's own name. */
  readonly role: string;
  /** `rank`: one row a rank, pruned and grown with it; a number: that many rows, fixed. */
  readonly rows: 'rank' | number;
  /** Scalars in a row. With width 1 the tensor is a vector [rows], else a matrix [rows, width]; see `matrix`. */
  readonly width: number;
  /** true: a matrix [rows, 1] with width 1 too, as a factor of a layer with one output; weight decay acts on it. */
  readonly matrix?: boolean;
  readonly init: Initializer;
  /** Rows that are grown later; default: as `init`. */
  readonly growth?: Initializer;
  /** false: a constant of the host, such as the gates of LoRA and ALoRA. */
  readonly trained: boolean;
  /** Optimizer group; see `AdapterStrategy.groups`. Default: `main`. */
  readonly group?: string;
}

/** Hyper-parameters of a group of parameters, where they differ from the run's. */
export interface ParameterGroup {
  readonly learningRate?: number;
  readonly weightDecay?: number;
  readonly epsilon?: number;
}

/** What a strategy put at one module. */
export interface Injection {
  readonly module: TargetModule;
  /** The parameters by role, as values of the graph. */
  readonly parameters: ReadonlyMap<string, ValueRef>;
  /** s of a delta s * (x A^T * g) B, by which it is saved and merged; undefined: the module has another form. */
  readonly scaling?: number;
}

/** A value of the training graph. */
export type ValueRef = Value;

/** The part of the graph rewriter that a strategy needs: read a module's input, add nodes, replace its output. */
export interface GraphRewriter {
  /** s = alpha / budget.rank, or the scale that an adapter which the run starts from brings along. */
  scaling(module: TargetModule): number;
  /** The scale of the adapter that the run starts from (initFrom), if it starts from one. */
  inheritedScaling(module: TargetModule): number | undefined;
  /** The common `adapter.alpha`, undefined when the run file leaves it out. */
  readonly alpha: number | undefined;
  readonly budget: Budget;
  /** x of the module, [..., in], after `adapter.dropout` where that is set. */
  input(module: TargetModule): ValueRef;
  /** y of the module, [..., out], before its bias. */
  output(module: TargetModule): ValueRef;
  /** The frozen weight as a value, and whether it is stored [in, out] or [out, in]. */
  weight(module: TargetModule): { readonly value: ValueRef; readonly layout: 'in-out' | 'out-in' };
  parameter(module: TargetModule, spec: ParameterSpec): ValueRef;
  /** Adds one node of ai.onnx with one output. */
  op(
    op: string,
    inputs: readonly (ValueRef | null)[],
    attributes?: Readonly<Record<string, AttributeInit>>,
    shape?: readonly Dim[],
  ): ValueRef;
  /** A float32 scalar. */
  scalar(value: number): ValueRef;
  /** An int64 vector, for axes and shapes. */
  ints(values: readonly number[]): ValueRef;
  /** Everything that read y reads this instead, but for the nodes that it is made of. */
  replaceOutput(module: TargetModule, value: ValueRef): void;
}

/** One way of adapting a frozen model. Pure description: the host owns steps, optimizer, randomness and files. */
export interface AdapterStrategy<Options = Record<string, unknown>> {
  /** The word in the run file. */
  readonly name: string;
  /** Validates the strategy's own keys of `adapter`; feeds `schema` and the docs. */
  readonly options: z.ZodType<Options>;
  /** Optimizer groups beside `main`. */
  groups?(options: Options): Readonly<Record<string, ParameterGroup>>;
  /** Ranks each module starts with, inside the budget. Pure; refuses with the numbers what cannot be met. */
  plan(modules: readonly TargetModule[], budget: Budget, options: Options, run: RunLength): RankPlan;
  /** Adds the nodes of one module and declares the parameters that they read. */
  inject(graph: GraphRewriter, module: TargetModule, options: Options): Injection;
  /** A further differentiable term of the loss, a scalar, added once an optimizer step; undefined: none. */
  penalty?(graph: GraphRewriter, injections: readonly Injection[], options: Options): ValueRef | undefined;
  /** What happens between steps; made once a run. Refuses a schedule that the run cannot hold. */
  scheduler?(run: RunOutline, options: Options): AdapterScheduler;
}

/** How long a run is, in optimizer steps. */
export interface RunLength {
  readonly totalSteps: number;
  readonly stepsPerEpoch: number;
}

/** Anything that JSON can hold. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** The hook. ALoRA's rounds, AdaLoRA's mask and SoRA's threshold all happen in `afterStep`. */
export interface AdapterScheduler {
  /** Gradients clipped, weights not yet updated. */
  beforeStep?(host: HostTrainer): void | Promise<void>;
  /** After the optimizer step, gradients still readable; evaluation and checkpoints come after it. */
  afterStep(host: HostTrainer): void | Promise<void>;
  /** Called once after the last step, also where a run stops early; the adapter is evaluated and saved after it. */
  finish?(host: HostTrainer): void | Promise<void>;
  /** false until the budget is met: early stopping and `best/` wait for it. Default: always true. */
  settled?(): boolean;
  /** Share of the training rows kept away from weight training for `gateGradients(.., 'heldBack')`; default 0. */
  heldBackShare?(): number;
  /** Part of every checkpoint. */
  save(): Json;
  restore(state: Json): void;
}

/** One configuration of the gates: all ranks on, or none, except some (module index, rank index). */
export interface GateSetting {
  readonly on: 'all' | 'none';
  readonly except: readonly (readonly [module: number, rank: number])[];
}

/** dLoss/dgate by module index; one number a rank. */
export type GateGradients = readonly Float64Array[];

/** What a trainer must offer to host any strategy. */
export interface HostTrainer {
  /** Optimizer steps completed: 1 in the first afterStep. */
  readonly step: number;
  readonly totalSteps: number;
  readonly stepsPerEpoch: number;
  readonly adapters: AdapterView;
  /** The stream of a name, the same in every run with this seed. */
  random(...keys: (number | string)[]): Random;
  /** Mean cross-entropy over the trained tokens of the run's fixed dev batch under each gate setting. */
  losses(settings: readonly GateSetting[]): Promise<Float64Array>;
  /**
   * Gradients on the dev batch, or on the next batch of the rows held back from weight training (DNAS).
   * `current`: dLoss/dgate at the gates as they are. `all`, `none`: the gradient with respect to a mask in front
   * of the gate, where every mask is 1, or 0; with gates of 1 it is dLoss/dgate.
   */
  gateGradients(on: 'all' | 'none' | 'current', data: 'dev' | 'heldBack'): Promise<GateGradients>;
  /** Removes ranks; optimizer moments go with them. */
  prune(module: TargetModule, ranks: readonly number[]): void;
  /** Appends ranks; the function does not change (B starts at zero). */
  grow(module: TargetModule, count: number): void;
  /**
   * Fixes the dev batch that `losses` uses, the same at every call with the same number. Returns how many rows it
   * holds: all there are, where the dev set is smaller.
   */
  devBatch(examples: number): number;
  log(event: AllocationReport): void;
}

/** Reading and writing the adapter between steps. Views are valid until the next prune or grow. */
export interface AdapterView {
  readonly modules: readonly TargetModule[];
  /** Rows of the module's rank parameters. */
  rank(module: TargetModule): number;
  /** A number for each rank that it keeps for life; a grown rank gets a new one. */
  serials(module: TargetModule): readonly number[];
  /** Values of a parameter, rank-major: [rank * width]. */
  parameter(module: TargetModule, role: string): Float32Array;
  /** Gradient of the last step, clipped; same layout. */
  gradient(module: TargetModule, role: string): Float32Array;
  /** Marks ranks as dead (false): they stay in place, but do not count, and are off outside training steps. */
  setLive(module: TargetModule, live: readonly boolean[]): void;
  live(module: TargetModule): readonly boolean[];
  /** Scalars that one rank of the module costs: in + out, + 1 where the gate trains. */
  costOfRank(module: TargetModule): number;
  /** Live ranks times their cost, over all modules. */
  liveParameters(): number;
}

/** Importance of one rank: importance = full - without + only (paper Eq. 6). */
export interface RankScore {
  readonly index: number;
  readonly without: number | null;
  readonly only: number | null;
  readonly importance: number | null;
  /** false where the numbers are estimates. */
  readonly exact?: boolean;
}

/** The content of a scores file. S is minus the mean cross-entropy over all trained tokens of the examples. */
export interface ScoreTable {
  readonly scorer: string;
  readonly examples: number;
  readonly full: number;
  readonly base: number;
  /** Every module by name; those without ranks as []. */
  readonly modules: Readonly<Record<string, readonly RankScore[]>>;
}

/** What a strategy reports of one change of ranks. */
export interface AllocationReport {
  readonly round: number;
  readonly pruned: readonly { readonly module: string; readonly index: number; readonly score: number }[];
  readonly grown: Readonly<Record<string, number>>;
  readonly scores?: ScoreTable;
  /** Loss on the dev batch before the round, after pruning, after growth. */
  readonly loss?: { readonly before: number; readonly pruned: number; readonly grown: number };
  readonly seconds?: number;
  /** Things worth a warning: a clamp, shares that were lost, scores that are not finite. */
  readonly notes?: readonly string[];
}

/** Declares a strategy: checks its shape and infers the type of its options. */
export function defineStrategy<Options>(strategy: AdapterStrategy<Options>): AdapterStrategy<Options> {
  if (!/^[a-z][a-z0-9-]*$/.test(strategy.name))
    throw new TypeError(`A strategy's name is lower case letters, digits and dashes; got '${strategy.name}'`);
  return strategy;
}
