import type { AdapterSet } from '../adapters/adapterSet.ts';
import type { TargetModule } from '../adapters/module.ts';
import type { AllocationReport, GateGradients, GateSetting, HostTrainer } from '../adapters/strategy.ts';
import { randomStream } from '../random.ts';
import { type AdaptedRuntime, liveGates } from '../runtime/adaptedRuntime.ts';
import type { GateReader } from '../runtime/feeds.ts';
import { naiveGateLosses } from '../runtime/gateLosses.ts';
import { canStage, StagedLosses } from '../runtime/stagedLosses.ts';
import type { Batch } from '../tasks/collate.ts';
import type { Example } from '../tasks/task.ts';
import { evaluationBatches } from './evaluation.ts';

export interface HostOptions {
  readonly runtime: AdaptedRuntime;
  readonly adapters: AdapterSet;
  readonly totalSteps: number;
  readonly stepsPerEpoch: number;
  readonly seed: number;
  readonly dev: readonly Example[];
  readonly padId: number;
  readonly batchSize: number;
  /** The next batch of the rows that are held back from weight training, in parts. */
  readonly nextHeldBack: () => Batch[];
  readonly onAllocation: (report: AllocationReport) => void;
  /** Called between the evaluations of many gate settings; may throw to stop scoring. */
  readonly breathe?: () => void;
}

/**
 * Tokens of a batch that is scored: enough for products to run at full speed, few enough for their results to stay in
 * the caches and for hidden states that settings share to be small.
 */
const scoredTokens = 1024;

/** The same where gradients are taken, which keep activations of all layers: half of them for 4 % more time. */
const differentiatedTokens = 512;

/** From so many settings on, cutting the model pays. */
const worthStages = 8;

/** What strategies see of our trainer; the loop advances `step`. */
export class ReferenceHost implements HostTrainer {
  step = 0;
  readonly totalSteps: number;
  readonly stepsPerEpoch: number;
  readonly adapters: AdapterSet;
  private dev: readonly Example[] | undefined;
  private stages: StagedLosses | undefined;
  private devExamples = 32;

  constructor(private readonly options: HostOptions) {
    this.totalSteps = options.totalSteps;
    this.stepsPerEpoch = options.stepsPerEpoch;
    this.adapters = options.adapters;
  }

  random(...keys: (number | string)[]) {
    return randomStream(this.options.seed, 'strategy', ...keys);
  }

  devBatch(examples: number): number {
    if (examples !== this.devExamples) this.dev = undefined;
    this.devExamples = examples;
    return Math.min(examples, this.options.dev.length);
  }

  /** Drawn once by a seeded shuffle without replacement; all rows where there are no more than asked for. */
  private devRows(): readonly Example[] {
    if (!this.dev) {
      const { dev, seed } = this.options;
      const order = dev.map((_, i) => i);
      const drawn =
        order.length <= this.devExamples
          ? order
          : randomStream(seed, 'dev batch').shuffle(order).slice(0, this.devExamples);
      drawn.sort((a, b) => a - b);
      this.dev = drawn.map((i) => dev[i]!);
    }
    return this.dev;
  }

  /** The dev batch in runs of at most so many tokens, or of one row. */
  private devBatches(tokens: number): Batch[] {
    const { padId, batchSize, runtime } = this.options;
    const rows = this.devRows();
    const longest = Math.max(1, ...rows.map(({ ids }) => ids.length));
    return evaluationBatches(rows, {
      batchSize: Math.max(1, Math.min(batchSize, Math.floor(tokens / longest))),
      padId,
      tokensOfRun: runtime.tokensOfRun,
    });
  }

  async losses(settings: readonly GateSetting[]): Promise<Float64Array> {
    const { runtime, breathe } = this.options;
    if (settings.length < worthStages || !canStage(this.adapters))
      return naiveGateLosses(runtime, this.devBatches(scoredTokens), settings, breathe);
    this.stages ??= await StagedLosses.open(runtime);
    return this.stages.losses(this.devBatches(scoredTokens), settings, breathe);
  }

  async gateGradients(on: 'all' | 'none' | 'current', data: 'dev' | 'heldBack'): Promise<GateGradients> {
    const { runtime } = this.options;
    const batches = data === 'dev' ? this.devBatches(differentiatedTokens) : this.options.nextHeldBack();
    const labels = batches.reduce((sum, batch) => sum + batch.labels, 0);
    const live = liveGates(this.adapters);
    const off: GateReader = (_, gate) => new Float32Array(gate.length);
    const totals = this.adapters.modules.map((module) => new Float64Array(this.adapters.rank(module)));
    for (const batch of batches) {
      const gradients = await runtime.gateGradients(batch, 1 / labels, on === 'none' ? off : live);
      totals.forEach((total, m) => {
        for (let i = 0; i < total.length; i++) total[i]! += gradients[m]![i]!;
      });
    }
    if (on !== 'current')
      this.adapters.modules.forEach((module, m) => {
        const gate = live(m, this.adapters.parameter(module, 'gate'));
        for (let i = 0; i < gate.length; i++) totals[m]![i]! *= gate[i]!;
      });
    return totals;
  }

  prune(module: TargetModule, ranks: readonly number[]): void {
    this.adapters.prune(module, ranks);
  }

  grow(module: TargetModule, count: number): void {
    this.adapters.grow(module, count);
  }

  log(report: AllocationReport): void {
    this.options.onAllocation(report);
  }
}
