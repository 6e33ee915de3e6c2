import type { RunConfig } from '../config/schema.ts';
import { AloraError } from '../errors.ts';
import { fetchModel, poolingOf } from './assemble.ts';
import { loadRunData } from './data.ts';
import { evaluateSplit, evaluationBatches } from './evaluation.ts';
import { generatedMetrics, generationFile } from './generatedMetrics.ts';
import { openAdapted } from './openAdapted.ts';
import type { AnswersEvent, SplitResult } from './reporter.ts';

/** What `evaluate` scores. */
export interface EvaluateOptions {
  /** Folder of an adapter in PEFT format; without it the base model is scored. */
  readonly adapter?: string;
  /** Default: dev, or test where there is no dev. */
  readonly split?: 'train' | 'dev' | 'test';
  /** false leaves out the task's metrics of generated answers, which take a pass for every token. Default true. */
  readonly generated?: boolean;
  /** Told before the first answer is generated, and after each batch of them. */
  readonly onAnswers?: (event: AnswersEvent) => void;
}

/** Loss and metrics of a split, and what they stand for. */
export interface EvaluateResult extends SplitResult {
  readonly split: 'train' | 'dev' | 'test';
  /** Trained tokens of the split; rows, for classification. */
  readonly labels: number;
  readonly rows: number;
  readonly seconds: number;
}

/** Loss and metrics of a split of a run's data, for the base model or with an adapter. Errors: MODEL_NOT_FINITE. */
export async function evaluateRun(config: RunConfig, options: EvaluateOptions = {}): Promise<EvaluateResult> {
  const opened = await fetchModel({ ...config.model, device: config.runtime.device });
  try {
    const data = await loadRunData(config, opened);
    const split = options.split ?? (data.dev.length > 0 ? 'dev' : 'test');
    const examples = data[split];
    if (examples.length === 0)
      throw new AloraError('config', 'SPLIT_MISSING', `The run file names no ${split} rows`, {
        where: `data.${split}`,
        fix: `Set data.${split}, or choose another --split.`,
      });
    const { runtime } = openAdapted(opened, {
      ...config.runtime,
      compute: config.model.compute,
      adapter: options.adapter,
      seed: config.train.seed,
      classifier:
        data.classes === undefined
          ? undefined
          : { classes: data.classes, pooling: poolingOf(config, opened.backbone) },
    });
    const begun = performance.now();
    const batches = evaluationBatches(examples, {
      batchSize: config.train.batchSize,
      padId: data.padId,
      tokensOfRun: runtime.tokensOfRun,
    });
    const result = await evaluateSplit(runtime, batches, data.task).finally(() => runtime.close());
    if (!Number.isFinite(result.loss))
      throw new AloraError('model', 'MODEL_NOT_FINITE', 'The loss of the rows is not finite', {
        where: options.adapter ?? opened.directory.folder,
        got: result.loss,
        fix: 'Evaluate another adapter or another file of the model: this one holds NaN, or its float16 numbers overflow (then take float32).',
      });
    const written =
      options.generated !== false && data.task.textMetrics
        ? await generatedMetrics(examples, data, generationFile(config, opened.directory), opened.workspace, {
            ...config.runtime,
            adapter: options.adapter,
            batchSize: config.train.batchSize,
            onAnswers: options.onAnswers,
          })
        : {};
    return {
      split,
      ...result,
      metrics: { ...result.metrics, ...written },
      rows: examples.length,
      labels: batches.reduce((sum, batch) => sum + batch.labels, 0),
      seconds: (performance.now() - begun) / 1000,
    };
  } finally {
    opened.workspace.close();
  }
}
