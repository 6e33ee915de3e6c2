import { existsSync, readFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { AdapterSet } from '../adapters/adapterSet.ts';
import type { AllocationReport, Json } from '../adapters/strategy.ts';
import { writeFileAtomic } from '../atomicFiles.ts';
import type { RunConfig } from '../config/schema.ts';
import { stringifyRunConfig } from '../config/write.ts';
import { AloraError } from '../errors.ts';
import { requireFinite, sum } from '../runtime/adaptedRuntime.ts';
import type { Batch } from '../tasks/collate.ts';
import { adamWStep, clipGradients, gradientNorm } from './adamw.ts';
import { adapterFor, loadFactors, saveRunAdapter } from './adapterFiles.ts';
import type { StrategyRegistry } from './assemble.ts';
import { restoreCheckpoint, type TrainingState, writeCheckpoint } from './checkpoint.ts';
import { evaluateSplit, evaluationBatches } from './evaluation.ts';
import { generatedMetrics, generationFile } from './generatedMetrics.ts';
import { ReferenceHost } from './host.ts';
import { BudgetLedger } from './ledger.ts';
import { headParameters, type PreparedRun, prepareRun } from './prepareRun.ts';
import {
  combineReporters,
  type Reporter,
  type RunResult,
  type SampleEvent,
  type SplitResult,
} from './reporter.ts';
import { RunFolder } from './runFolder.ts';
import { sampleText } from './sample.ts';
import { rateFactor } from './schedule.ts';
import { StepBatches } from './stepBatches.ts';
import { versions } from './versions.ts';

export interface TrainOptions {
  readonly strategies: StrategyRegistry;
  /** Continue a run that was interrupted. */
  readonly resume?: boolean;
  /** Replace what an earlier run wrote into the output folder. */
  readonly force?: boolean;
  readonly reporters?: readonly Reporter[];
  /** Aborting it saves a checkpoint and ends with AloraError INTERRUPTED. */
  readonly signal?: AbortSignal;
  /** For the record in result.json. */
  readonly command?: string;
}

/**
 * Trains an adapter as the configuration says and returns what result.json holds. The output folder is written
 * as docs/run-folder.md describes; an error before step 1 leaves none behind.
 */
export async function trainRun(config: RunConfig, options: TrainOptions): Promise<RunResult> {
  return trainWith(config, options, (folder) => folder.claim());
}

/** The same for a caller that holds the lock of the output folder, `.lock`, itself. */
export async function trainClaimed(config: RunConfig, options: TrainOptions): Promise<RunResult> {
  return trainWith(config, options, async () => () => {});
}

async function trainWith(
  config: RunConfig,
  options: TrainOptions,
  claim: (folder: RunFolder) => Promise<() => void>,
): Promise<RunResult> {
  const folder = new RunFolder(config.output);
  const finished = () =>
    options.resume && folder.isFinished
      ? (JSON.parse(readFileSync(folder.file('result.json'), 'utf8')) as RunResult)
      : undefined;
  folder.check(options);
  const earlier = finished();
  if (earlier) return earlier;
  const run = await prepareRun(config, options.strategies);
  try {
    await run.runtime.open();
    const isNew = !existsSync(folder.path);
    const release = await claim(folder);
    try {
      // Another process may have come first and be done by now.
      folder.check(options);
      return finished() ?? (await new TrainingLoop(run, folder, options).run(isNew));
    } finally {
      release();
    }
  } finally {
    await run.close();
  }
}

/** Errors after which a run can go on, or that its files explain. */
function keepsState(error: unknown): boolean {
  return error instanceof AloraError && (error.kind === 'interrupted' || error.kind === 'diverged');
}

/** The loop over steps, with everything that happens between them. */
class TrainingLoop {
  private readonly report: Required<Reporter>;
  private readonly host: ReferenceHost;
  private readonly ledger: BudgetLedger;
  private readonly batches: StepBatches;
  private readonly devBatches: Batch[];
  private readonly testBatches: Batch[];
  private readonly started = performance.now();
  private state: TrainingState = {
    step: 0,
    heldBackBatches: 0,
    best: { step: 0, loss: Number.POSITIVE_INFINITY, evaluations: 0 },
    firstDev: null,
    bestDev: null,
    lastDev: null,
    firstTest: null,
    ledger: { steps: 0, parameterSum: 0, rankSum: 0, peakParameters: 0, peakRanks: 0 },
    scheduler: null,
    allocations: 0,
    secondsAllocating: 0,
    seconds: 0,
    samples: [],
  };

  constructor(
    private readonly setup: PreparedRun,
    private readonly folder: RunFolder,
    private readonly options: TrainOptions,
  ) {
    const { config, adapters, runtime, data, totalSteps, stepsPerEpoch } = setup;
    this.report = combineReporters(options.reporters ?? []);
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
    this.report.onRunStart({ ...run.info, startStep: this.state.step });
    for (const warning of run.data.warnings) this.report.onWarning(warning);
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
    const { adapters, hashes, scheduler } = this.setup;
    const state = restoreCheckpoint(this.folder, adapters, hashes, (message) =>
      this.report.onWarning(message),
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
    const { config, adapters, runtime, scheduler, totalSteps, strategy, options } = this.setup;
    const step = this.state.step + 1;
    const begun = performance.now();
    const parts = this.batches.of(step);
    const labels = parts.reduce((total, batch) => total + batch.labels, 0);
    adapters.gradients.fill(0);
    this.ledger.record();
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
    loss /= labels;
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
    const ms = performance.now() - begun;
    const event = {
      event: 'step' as const,
      step,
      epoch: step / this.setup.stepsPerEpoch,
      loss,
      learningRate: config.train.learningRate * factor,
      gradNorm,
      tokens: parts.reduce((total, batch) => total + batch.tokens, 0),
      labels,
      ms,
    };
    this.folder.append(event);
    this.report.onStep(event);
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

  private nextHeldBack(): Batch[] {
    const at = this.state.heldBackBatches;
    this.state = { ...this.state, heldBackBatches: at + 1 };
    return this.batches.heldBack(at);
  }

  private logAllocation(report: AllocationReport): void {
    const { round, pruned, grown, scores, loss, seconds, notes } = report;
    const path = scores && `scores/round-${round}.json`;
    if (scores) writeFileAtomic(this.folder.file(path!), `${JSON.stringify(scores)}\n`);
    const event = {
      event: 'allocation' as const,
      step: this.state.step,
      round,
      pruned,
      grown,
      ranks: this.ranks(),
      ...(path ? { scores: path } : {}),
      ...(loss ? { loss } : {}),
      ...(seconds === undefined ? {} : { seconds }),
      ...(notes && notes.length > 0 ? { notes } : {}),
    };
    this.folder.append(event);
    this.state = { ...this.state, allocations: this.state.allocations + 1 };
    this.report.onAllocation(event);
    for (const note of notes ?? []) this.warnOnce(note);
  }

  private readonly warned = new Set<string>();
  /** Rounds often say the same with other numbers: metrics.jsonl has them all. */
  private warnOnce(note: string): void {
    const kind = note.replace(/\d+ ranks?/g, 'ranks').replace(/\d+/g, '');
    if (!this.warned.has(kind)) this.report.onWarning(note);
    this.warned.add(kind);
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
    const event = { event: 'eval' as const, step: this.state.step, split, ...result };
    this.folder.append(event);
    this.report.onEval(event);
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
    this.report.onCheckpoint({ step: this.state.step, kind, path: kind });
  }

  private checkpoint(): void {
    const { adapters, hashes, scheduler } = this.setup;
    this.state = {
      ...this.state,
      ledger: this.ledger.save(),
      scheduler: scheduler?.save() ?? (null as Json),
      seconds: this.state.seconds + this.elapsed(),
    };
    const path = writeCheckpoint(this.folder, this.state, adapters, hashes);
    this.report.onCheckpoint({ step: this.state.step, kind: 'checkpoint', path });
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
    this.report.onSample(event);
  }

  private async finish(stoppedEarly: boolean): Promise<RunResult> {
    const { setup: run, folder } = this;
    await this.sample('after');
    this.saveAdapter('adapter');
    if (!this.state.bestDev || !existsSync(folder.file('best'))) this.saveAdapter('best');
    const test = this.testBatches.length > 0 ? await this.testWithBest() : undefined;
    const { state } = this;
    const seconds = state.seconds + this.elapsed();
    const peakMemory = process.resourceUsage().maxRSS * 1024;
    const written = test ? await this.answerTest() : {};
    const result: RunResult = {
      strategy: run.strategy.name,
      seed: run.config.train.seed,
      configHash: run.hashes.configuration!,
      command: this.options.command ?? '',
      budget: this.ledger.report(headParameters(run)),
      ranks: this.ranks(),
      steps: state.step,
      totalSteps: run.totalSteps,
      stoppedEarly,
      bestStep: state.best.step,
      allocations: state.allocations,
      ...(state.firstDev && state.lastDev
        ? { dev: { before: state.firstDev, best: state.bestDev ?? state.lastDev, last: state.lastDev } }
        : {}),
      ...(test
        ? { test: { ...test, best: { ...test.best, metrics: { ...test.best.metrics, ...written } } } }
        : {}),
      samples: state.samples as SampleEvent[],
      seconds,
      secondsAllocating: state.secondsAllocating,
      peakMemory,
      versions: versions(),
      machine: { cpu: cpus()[0]?.model ?? 'unknown', cores: cpus().length, memory: totalmem() },
      hashes: run.hashes,
    };
    writeFileAtomic(folder.file('result.json'), `${JSON.stringify(result, null, 2)}\n`);
    this.report.onRunEnd(result);
    return result;
  }

  /** The test split is scored with the best adapter, which may have other ranks than the last one. */
  private async testWithBest(): Promise<RunResult['test']> {
    const { adapted, runtime, config } = this.setup;
    const { modules, backbone } = this.setup;
    const best = adapterFor(this.folder.file('best'), modules, backbone.config);
    const ranks = adapted.modules.map((module) => best.modules.get(module.name)?.rank ?? 0);
    const heads = adapted.heads.map((head) => head.module);
    const adapters = new AdapterSet(adapted.modules, adapted.parameters, ranks, config.train.seed, heads);
    loadFactors(adapters, best, adapted.heads);
    const scored = await this.evaluate('test', this.testBatches, runtime.over(adapters));
    return { ...(this.state.firstTest ? { before: this.state.firstTest } : {}), best: scored! };
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
      });
    } catch (error) {
      if (!(error instanceof AloraError) || error.kind === 'interrupted') throw error;
      this.report.onWarning(`no metrics of generated answers: ${error.message}`);
      return {};
    }
  }
}
