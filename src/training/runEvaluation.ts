import { existsSync } from 'node:fs';
import { recoverFolder } from '../atomicFiles.ts';
import { AloraError } from '../errors.ts';
import { requireFinite } from '../runtime/adaptedRuntime.ts';
import type { Batch } from '../tasks/collate.ts';
import { savedAdapters, saveRunAdapter } from './adapterFiles.ts';
import type { EvaluationState } from './checkpoint.ts';
import { evaluateSplit, evaluationBatches } from './evaluation.ts';
import { generatedMetrics, generationFile } from './generatedMetrics.ts';
import type { PreparedRun } from './prepareRun.ts';
import type { RunResult, SampleEvent, SplitResult } from './reporter.ts';
import type { RunFolder } from './runFolder.ts';
import type { RunLog } from './runLog.ts';
import { sampleText } from './sample.ts';

/** What a run is judged by: scores of dev and test, the adapters that are kept, samples. */
export class RunEvaluation {
  private readonly dev: Batch[];
  private readonly test: Batch[];

  constructor(
    private readonly setup: PreparedRun,
    private readonly folder: RunFolder,
    private readonly log: RunLog,
    /** Part of every checkpoint. */
    public state: EvaluationState,
  ) {
    const { config, runtime, data } = setup;
    const options = {
      batchSize: config.train.batchSize,
      padId: data.padId,
      tokensOfRun: runtime.tokensOfRun,
    };
    this.dev = evaluationBatches(data.dev, options);
    this.test = evaluationBatches(data.test, options);
  }

  /** Step 0: the base model. */
  async begin(): Promise<void> {
    const samples = await this.sample('before');
    const firstDev = await this.score(0, 'dev', this.dev);
    const firstTest = await this.score(0, 'test', this.test);
    this.state = { ...this.state, samples, firstDev, lastDev: firstDev, firstTest };
    if (firstDev) this.considerBest(0, firstDev);
  }

  async scoreDev(step: number): Promise<void> {
    const dev = await this.score(step, 'dev', this.dev);
    if (!dev) return;
    this.state = { ...this.state, lastDev: dev };
    this.considerBest(step, dev);
  }

  /** Whether dev has not improved for train.patience evaluations. */
  get hasStalled(): boolean {
    const { patience } = this.setup.config.train;
    return patience > 0 && this.state.best.evaluations >= patience;
  }

  /**
   * After the last step: saves the adapter, and scores test with the best one, which may have other ranks. Done again
   * by a run that goes on from a checkpoint of its last step.
   */
  async end(step: number): Promise<Pick<RunResult, 'samples' | 'test'>> {
    const after = await this.sample('after');
    this.save('adapter', step);
    recoverFolder(this.folder.file('best'));
    if (!this.state.bestDev || !existsSync(this.folder.file('best'))) this.keepAsBest(step);
    const test = await this.scoreTest(step);
    return { samples: [...this.state.samples, ...after], ...(test ? { test } : {}) };
  }

  /**
   * The task's metrics of generated answers on test, with the best adapter. What goes wrong costs these alone.
   * `breathe` is called between answers, and may throw AloraError INTERRUPTED.
   */
  async answerTest(breathe: () => void): Promise<SplitResult['metrics']> {
    const { config, data, directory, workspace } = this.setup;
    if (this.test.length === 0 || !config.train.generated || !data.task.textMetrics) return {};
    try {
      return await generatedMetrics(data.test, data, generationFile(config, directory), workspace, {
        ...config.runtime,
        adapter: this.folder.file('best'),
        batchSize: config.train.batchSize,
        breathe,
        onAnswers: (event) => this.log.reporter.onAnswers(event),
      });
    } catch (error) {
      if (error instanceof AloraError && error.kind === 'interrupted') throw error;
      const reason = error instanceof Error ? error.message : String(error);
      this.log.reporter.onWarning(`no metrics of generated answers: ${reason}`);
      return {};
    }
  }

  private async score(
    step: number,
    split: 'dev' | 'test',
    batches: readonly Batch[],
    runtime = this.setup.runtime,
  ): Promise<SplitResult | null> {
    if (batches.length === 0) return null;
    const result = await evaluateSplit(runtime, batches, this.setup.data.task);
    requireFinite(result.loss, step);
    this.log.evaluation(step, split, result);
    return result;
  }

  /** Keeps the adapter with the lowest dev loss; strategies that have yet to meet the budget are not eligible. */
  private considerBest(step: number, dev: SplitResult): void {
    const { best } = this.state;
    if (this.setup.scheduler?.settled?.() === false) return;
    if (dev.loss < best.loss) this.keepAsBest(step, dev.loss);
    else this.state = { ...this.state, best: { ...best, evaluations: best.evaluations + 1 } };
  }

  /** Takes the adapter as it now is, whose dev scores are the last ones. */
  private keepAsBest(step: number, loss = this.state.best.loss): void {
    this.state = { ...this.state, best: { step, loss, evaluations: 0 }, bestDev: this.state.lastDev };
    this.save('best', step);
  }

  private save(kind: 'best' | 'adapter', step: number): void {
    saveRunAdapter(this.folder.file(kind), this.setup);
    this.log.reporter.onCheckpoint({ step, kind, path: kind });
  }

  private async sample(when: SampleEvent['when']): Promise<SampleEvent[]> {
    const event = await sampleText(this.setup, when);
    if (event) this.log.reporter.onSample(event);
    return event ? [event] : [];
  }

  private async scoreTest(step: number): Promise<RunResult['test']> {
    if (this.test.length === 0) return undefined;
    const runtime = this.setup.runtime.over(savedAdapters(this.setup, this.folder.file('best')));
    const best = await this.score(step, 'test', this.test, runtime);
    const { firstTest } = this.state;
    return best ? { ...(firstTest ? { before: firstTest } : {}), best } : undefined;
  }
}
