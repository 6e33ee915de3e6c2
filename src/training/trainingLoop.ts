import type { AllocationReport, Json } from '../adapters/strategy.ts';
import { writeFileAtomic } from '../atomicFiles.ts';
import { stringifyRunConfig } from '../config/write.ts';
import { AloraError } from '../errors.ts';
import { requireFinite, sum } from '../runtime/adaptedRuntime.ts';
import type { Batch } from '../tasks/collate.ts';
import { adamWStep, clipGradients, gradientNorm } from './adamw.ts';
import { initialState, restoreCheckpoint, writeCheckpoint } from './checkpoint.ts';
import { ReferenceHost } from './host.ts';
import { BudgetLedger } from './ledger.ts';
import { headParameters, type PreparedRun } from './prepareRun.ts';
import type { Reporter, RunResult } from './reporter.ts';
import { resultOf } from './result.ts';
import { RunEvaluation } from './runEvaluation.ts';
import type { RunFolder } from './runFolder.ts';
import { RunLog } from './runLog.ts';
import { rateFactor } from './schedule.ts';
import { StepBatches } from './stepBatches.ts';

/** What a loop over steps is told beside its run. */
export interface LoopOptions {
  /** Continue a run that was interrupted. */
  readonly resume?: boolean;
  readonly reporters?: readonly Reporter[];
  /** Aborting it saves a checkpoint and ends with AloraError INTERRUPTED. */
  readonly signal?: AbortSignal;
  /** For the record in result.json. */
  readonly command?: string;
}

/** Errors after which a run can go on, or that its files explain. */
function keepsState(error: unknown): boolean {
  return error instanceof AloraError && (error.kind === 'interrupted' || error.kind === 'diverged');
}

/** The loop over steps, with everything that happens between them, in a folder that is this process's. */
export class TrainingLoop {
  private readonly log: RunLog;
  private readonly host: ReferenceHost;
  private readonly ledger: BudgetLedger;
  private readonly batches: StepBatches;
  private readonly evaluation: RunEvaluation;
  private readonly started = performance.now();
  private state = initialState;

  constructor(
    private readonly setup: PreparedRun,
    private readonly folder: RunFolder,
    private readonly options: LoopOptions,
  ) {
    const { config, adapters, runtime, data, totalSteps, stepsPerEpoch } = setup;
    this.log = new RunLog(folder, options.reporters ?? []);
    this.ledger = new BudgetLedger(adapters, setup.budget);
    this.batches = new StepBatches(config, data, setup.scheduler, runtime.tokensOfRun);
    this.evaluation = new RunEvaluation(setup, folder, this.log, initialState.evaluation);
    this.host = new ReferenceHost({
      runtime,
      adapters,
      totalSteps,
      stepsPerEpoch,
      seed: config.train.seed,
      dev: data.dev,
      padId: data.padId,
      batchSize: config.train.batchSize,
      nextHeldBack: () => this.nextHeldBack(),
      onAllocation: (report) => this.logAllocation(report),
      breathe: () => this.stopScoring(),
    });
  }

  /** `undo` is called after an error before the first step that leaves nothing to go on from. */
  async run(undo: () => void): Promise<RunResult> {
    const { setup: run, folder, options } = this;
    try {
      const resumed = options.resume === true && this.restore();
      if (resumed) folder.rewindMetrics(this.state.step);
      else {
        // What a run without a checkpoint left may belong to another configuration.
        folder.clear();
        writeFileAtomic(folder.file('run.yaml'), stringifyRunConfig(run.config, folder.path));
      }
      return await this.runSteps(resumed);
    } catch (error) {
      if (this.state.step === 0 && !keepsState(error)) undo();
      throw error;
    }
  }

  private async runSteps(resumed: boolean): Promise<RunResult> {
    const { setup: run, options } = this;
    this.log.reporter.onRunStart({ ...run.info, startStep: this.state.step });
    for (const warning of run.data.warnings) this.log.reporter.onWarning(warning);
    if (!resumed) await this.evaluation.begin();
    while (!this.isOver) {
      if (options.signal?.aborted) this.interrupt();
      await this.step();
    }
    if (options.signal?.aborted) this.interrupt();
    return this.finish();
  }

  private get isOver(): boolean {
    return this.state.step === this.setup.totalSteps || this.state.ended || this.evaluation.hasStalled;
  }

  private restore(): boolean {
    const { adapters, scheduler } = this.setup;
    const state = restoreCheckpoint(this.folder, adapters, this.setup, (message) =>
      this.log.reporter.onWarning(message),
    );
    if (!state) return false;
    this.state = state;
    this.evaluation.state = state.evaluation;
    this.host.step = state.step;
    this.ledger.restore(state.ledger);
    scheduler?.restore(state.scheduler);
    return true;
  }

  private async step(): Promise<void> {
    const { config, adapters, scheduler, totalSteps, strategy, options } = this.setup;
    const step = this.state.step + 1;
    const begun = performance.now();
    const parts = this.batches.of(step);
    const count = (of: (batch: Batch) => number) => parts.reduce((total, batch) => total + of(batch), 0);
    const labels = count((batch) => batch.labels);
    this.ledger.record();
    const loss = await this.gradients(step, parts, labels);
    requireFinite(loss, step);
    const gradNorm = gradientNorm(adapters);
    requireFinite(gradNorm, step);
    clipGradients(adapters, gradNorm, config.train.clip);
    await scheduler?.beforeStep?.(this.host);
    const factor = rateFactor(step, { ...config.train, totalSteps });
    adamWStep(adapters, factor, {
      learningRate: config.train.learningRate,
      weightDecay: config.train.weightDecay,
      groups: strategy.groups?.(options) ?? {},
    });
    this.log.step({
      step,
      epoch: step / this.setup.stepsPerEpoch,
      loss,
      learningRate: config.train.learningRate * factor,
      gradNorm,
      tokens: count((batch) => batch.tokens),
      labels,
      ms: performance.now() - begun,
    });
    this.host.step = step;
    this.state = { ...this.state, step };
    const hook = performance.now();
    await scheduler?.afterStep(this.host);
    if (step === totalSteps) await this.endSchedule();
    this.state = {
      ...this.state,
      secondsAllocating: this.state.secondsAllocating + (performance.now() - hook) / 1000,
    };
    const due = (every: number) => every > 0 && step % every === 0;
    if (due(config.train.evalEvery) || step === totalSteps) await this.evaluation.scoreDev(step);
    if (due(config.train.checkpointEvery) && step < totalSteps) this.checkpoint();
    // Gives timers and signals their turn: session.run blocks the event loop while it computes.
    await new Promise((resolve) => setImmediate(resolve));
  }

  /** Leaves the gradients of the step's mean loss over all `labels` of its parts; returns that loss, in nats. */
  private async gradients(step: number, parts: readonly Batch[], labels: number): Promise<number> {
    const { config, adapters, runtime } = this.setup;
    adapters.gradients.fill(0);
    let loss = 0;
    for (const [i, batch] of parts.entries()) {
      const scale = { loss: 1 / labels, penalty: i === 0 ? 1 : 0 };
      const losses = await runtime.step(batch, scale, {
        probability: config.adapter.dropout,
        seed: config.train.seed,
        step,
        examples: batch.examples,
      });
      loss += sum(losses);
    }
    return loss / labels;
  }

  private nextHeldBack(): Batch[] {
    const at = this.state.heldBackBatches;
    this.state = { ...this.state, heldBackBatches: at + 1 };
    return this.batches.heldBack(at);
  }

  private logAllocation(report: AllocationReport): void {
    this.log.allocation(this.state.step, report, this.ranks());
    this.state = { ...this.state, allocations: this.state.allocations + 1 };
  }

  private ranks(): Record<string, number> {
    const { adapters } = this.setup;
    return Object.fromEntries(adapters.modules.map((module) => [module.name, adapters.liveRank(module)]));
  }

  /** Lets the strategy finish, once; tells whether that changed the adapter. */
  private async endSchedule(): Promise<boolean> {
    if (this.state.ended) return false;
    const { adapters, scheduler } = this.setup;
    const before = adapters.values.slice();
    await scheduler?.finish?.(this.host);
    this.state = { ...this.state, ended: true };
    const { values } = adapters;
    return values.length !== before.length || values.some((value, i) => value !== before[i]);
  }

  private checkpoint(): void {
    const { adapters, scheduler } = this.setup;
    this.state = {
      ...this.state,
      evaluation: this.evaluation.state,
      ledger: this.ledger.save(),
      scheduler: scheduler?.save() ?? (null as Json),
      seconds: this.state.seconds + this.elapsed(),
    };
    const path = writeCheckpoint(this.folder, this.state, adapters, this.setup.hashes);
    this.log.reporter.onCheckpoint({ step: this.state.step, kind: 'checkpoint', path });
  }

  private sinceLast = 0;
  /** Seconds since this was last asked. */
  private elapsed(): number {
    const now = (performance.now() - this.started) / 1000;
    const elapsed = now - this.sinceLast;
    this.sinceLast = now;
    return elapsed;
  }

  private interrupt(): never {
    this.checkpoint();
    throw new AloraError(
      'interrupted',
      'INTERRUPTED',
      `Interrupted after step ${this.state.step}; the state is saved`,
      {
        where: this.folder.path,
        fix: 'Continue with --resume.',
      },
    );
  }

  /** No checkpoint holds a half of a round: the last one stands, and resuming scores again. */
  private stopScoring(): void {
    const { checkpointEvery } = this.setup.config.train;
    // Without any, all would be lost: the round comes to its end.
    if (!this.options.signal?.aborted || checkpointEvery === 0) return;
    throw new AloraError(
      'interrupted',
      'INTERRUPTED',
      `Interrupted while ranks were scored after step ${this.state.step}`,
      {
        where: this.folder.path,
        fix: 'Continue with --resume: the run goes on from its last checkpoint, if there is one.',
      },
    );
  }

  private async finish(): Promise<RunResult> {
    const { setup, folder, options, evaluation } = this;
    const { step } = this.state;
    // A run that stops early has been evaluated, and is again where the strategy has something left to do.
    if (await this.endSchedule()) await evaluation.scoreDev(step);
    const { samples, test } = await evaluation.end(step);
    this.state = {
      ...this.state,
      evaluation: evaluation.state,
      seconds: this.state.seconds + this.elapsed(),
    };
    const peakMemory = process.resourceUsage().maxRSS * 1024;
    const answered = await evaluation.answerTest(() => {
      if (options.signal?.aborted) this.interrupt();
    });
    const result = resultOf(setup, this.state, {
      command: options.command ?? '',
      budget: this.ledger.report(headParameters(setup)),
      ranks: this.ranks(),
      ...(test
        ? { test: { ...test, best: { ...test.best, metrics: { ...test.best.metrics, ...answered } } } }
        : {}),
      samples,
      peakMemory,
    });
    writeFileAtomic(folder.file('result.json'), `${JSON.stringify(result, null, 2)}\n`);
    this.log.reporter.onRunEnd(result);
    return result;
  }
}
