import { existsSync } from 'node:fs';
import type { AllocationReport, Json } from '../adapters/strategy.ts';
import { writeFileAtomic } from '../atomicFiles.ts';
import { stringifyRunConfig } from '../config/write.ts';
import { AloraError } from '../errors.ts';
import { requireFinite, sum } from '../runtime/adaptedRuntime.ts';
import type { Batch } from '../tasks/collate.ts';
import { adamWStep, clipGradients, gradientNorm } from './adamw.ts';
import { savedAdapters, saveRunAdapter } from './adapterFiles.ts';
import { initialState, restoreCheckpoint, writeCheckpoint } from './checkpoint.ts';
import { evaluateSplit, evaluationBatches } from './evaluation.ts';
import { generatedMetrics, generationFile } from './generatedMetrics.ts';
import { ReferenceHost } from './host.ts';
import { BudgetLedger } from './ledger.ts';
import { headParameters, type PreparedRun } from './prepareRun.ts';
import type { Reporter, RunResult, SplitResult } from './reporter.ts';
import { resultOf } from './result.ts';
import type { RunFolder } from './runFolder.ts';
import { RunLog } from './runLog.ts';
import { sampleText } from './sample.ts';
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
  private readonly devBatches: Batch[];
  private readonly testBatches: Batch[];
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
    const evaluation = {
      batchSize: config.train.batchSize,
      padId: data.padId,
      tokensOfRun: runtime.tokensOfRun,
    };
    this.devBatches = evaluationBatches(data.dev, evaluation);
    this.testBatches = evaluationBatches(data.test, evaluation);
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
      breathe: () => this.stopMidway('ranks were scored'),
    });
  }

  /** `isNew`: the folder was made for this run. */
  async run(isNew: boolean): Promise<RunResult> {
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
      if (isNew && this.state.step === 0 && !keepsState(error)) folder.remove();
      throw error;
    }
  }

  private async runSteps(resumed: boolean): Promise<RunResult> {
    const { setup: run, options } = this;
    this.log.reporter.onRunStart({ ...run.info, startStep: this.state.step });
    for (const warning of run.data.warnings) this.log.reporter.onWarning(warning);
    if (!resumed) await this.begin();
    let stopped = this.shouldStop();
    while (this.state.step < run.totalSteps && !stopped) {
      if (options.signal?.aborted) this.interrupt();
      await this.step();
      stopped = this.shouldStop();
    }
    if (options.signal?.aborted) this.interrupt();
    return this.finish(stopped && this.state.step < run.totalSteps);
  }

  private restore(): boolean {
    const { adapters, scheduler } = this.setup;
    const state = restoreCheckpoint(this.folder, adapters, this.setup, (message) =>
      this.log.reporter.onWarning(message),
    );
    if (!state) return false;
    // Infinity is not a JSON number: no evaluation so far reads back as null.
    this.state = { ...state, best: { ...state.best, loss: state.best.loss ?? Number.POSITIVE_INFINITY } };
    this.host.step = state.step;
    this.ledger.restore(state.ledger);
    scheduler?.restore(state.scheduler);
    return true;
  }

  /** Step 0: the scores of the base model. */
  private async begin(): Promise<void> {
    await this.sample('before');
    const firstDev = await this.evaluate('dev', this.devBatches);
    const firstTest = await this.evaluate('test', this.testBatches);
    this.state = { ...this.state, firstDev, lastDev: firstDev, firstTest };
    if (firstDev) await this.considerBest(firstDev);
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
    if (step === totalSteps) await scheduler?.finish?.(this.host);
    this.state = {
      ...this.state,
      secondsAllocating: this.state.secondsAllocating + (performance.now() - hook) / 1000,
    };
    const due = (every: number) => every > 0 && step % every === 0;
    if (due(config.train.evalEvery) || step === totalSteps) await this.evaluateDev();
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

  private async evaluate(
    split: 'dev' | 'test',
    batches: readonly Batch[],
    runtime = this.setup.runtime,
  ): Promise<SplitResult | null> {
    if (batches.length === 0) return null;
    const result = await evaluateSplit(runtime, batches, this.setup.data.task);
    requireFinite(result.loss, this.state.step);
    this.log.evaluation(this.state.step, split, result);
    return result;
  }

  private async evaluateDev(): Promise<void> {
    const dev = await this.evaluate('dev', this.devBatches);
    if (!dev) return;
    this.state = { ...this.state, lastDev: dev };
    await this.considerBest(dev);
  }

  /** Keeps the adapter with the lowest dev loss; strategies that have yet to meet the budget are not eligible. */
  private async considerBest(dev: SplitResult): Promise<void> {
    const { best, step } = this.state;
    if (this.setup.scheduler?.settled?.() === false) return;
    if (dev.loss < best.loss) {
      this.state = { ...this.state, best: { step, loss: dev.loss, evaluations: 0 }, bestDev: dev };
      this.saveAdapter('best');
    } else this.state = { ...this.state, best: { ...best, evaluations: best.evaluations + 1 } };
  }

  private shouldStop(): boolean {
    const { patience } = this.setup.config.train;
    return patience > 0 && this.state.best.evaluations >= patience;
  }

  private saveAdapter(kind: 'best' | 'adapter'): void {
    saveRunAdapter(this.folder.file(kind), this.setup);
    this.log.reporter.onCheckpoint({ step: this.state.step, kind, path: kind });
  }

  private checkpoint(): void {
    const { adapters, scheduler } = this.setup;
    this.state = {
      ...this.state,
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

  /** In the middle of what a checkpoint does not hold, the last one stands, and resuming does that again. */
  private stopMidway(what: string): void {
    if (!this.options.signal?.aborted) return;
    throw new AloraError(
      'interrupted',
      'INTERRUPTED',
      `Interrupted while ${what} after step ${this.state.step}`,
      {
        where: this.folder.path,
        fix: 'Continue with --resume: the run goes on from its last checkpoint.',
      },
    );
  }

  private async sample(when: 'before' | 'after'): Promise<void> {
    const event = await sampleText(this.setup, when);
    if (!event) return;
    this.state = { ...this.state, samples: [...this.state.samples, event] };
    this.log.reporter.onSample(event);
  }

  private async finish(stoppedEarly: boolean): Promise<RunResult> {
    const { setup, folder, options } = this;
    await this.sample('after');
    this.saveAdapter('adapter');
    if (!this.state.bestDev || !existsSync(folder.file('best'))) this.saveAdapter('best');
    const scored = await this.testWithBest();
    const seconds = this.state.seconds + this.elapsed();
    const peakMemory = process.resourceUsage().maxRSS * 1024;
    const written = scored ? await this.answerTest() : {};
    const test = scored && {
      ...(this.state.firstTest ? { before: this.state.firstTest } : {}),
      best: { ...scored, metrics: { ...scored.metrics, ...written } },
    };
    const result = resultOf(setup, this.state, {
      command: options.command ?? '',
      budget: this.ledger.report(headParameters(setup)),
      ranks: this.ranks(),
      stoppedEarly,
      ...(test ? { test } : {}),
      seconds,
      peakMemory,
    });
    writeFileAtomic(folder.file('result.json'), `${JSON.stringify(result, null, 2)}\n`);
    this.log.reporter.onRunEnd(result);
    return result;
  }

  /** The test split is scored with the best adapter, which may have other ranks than the last one. */
  private async testWithBest(): Promise<SplitResult | null> {
    if (this.testBatches.length === 0) return null;
    const adapters = savedAdapters(this.setup, this.folder.file('best'));
    return this.evaluate('test', this.testBatches, this.setup.runtime.over(adapters));
  }

  /** The task's metrics of generated answers on test, with the best adapter. What goes wrong costs these alone. */
  private async answerTest(): Promise<SplitResult['metrics']> {
    const { config, data, directory, workspace } = this.setup;
    if (!config.train.generated || !data.task.textMetrics) return {};
    try {
      return await generatedMetrics(data.test, data, generationFile(config, directory), workspace, {
        ...config.runtime,
        adapter: this.folder.file('best'),
        batchSize: config.train.batchSize,
        breathe: () => this.stopMidway('answers were generated'),
        onAnswers: (event) => this.log.reporter.onAnswers(event),
      });
    } catch (error) {
      if (!(error instanceof AloraError) || error.kind === 'interrupted') throw error;
      this.log.reporter.onWarning(`no metrics of generated answers: ${error.message}`);
      return {};
    }
  }
}
