/**
 * What a run tells the outside. Strategies may change a run; reporters only observe it: an exception in a hook
 * is logged once and never stops a run. The event types are the lines of `metrics.jsonl`, letter by letter, and
 * `RunResult` is `result.json`.
 */

/** One optimizer step. Step 1 is the first; the loss is the one before the step's update. */
export interface StepEvent {
  readonly event: 'step';
  readonly step: number;
  /** Passes over the training rows completed after this step, as a fraction. */
  readonly epoch: number;
  /** Mean cross-entropy in nats over the trained tokens of the step, without any penalty of the strategy. */
  readonly loss: number;
  /** The rate that this step used. */
  readonly learningRate: number;
  /** Global L2 norm of all trained gradients before clipping. */
  readonly gradNorm: number;
  /** Input tokens of the step, padding excluded. */
  readonly tokens: number;
  /** Trained tokens of the step; rows, for classification. */
  readonly labels: number;
  /** Wall-clock milliseconds of the step, evaluation and saving excluded. */
  readonly ms: number;
}

/** One evaluation of a whole split. There is one at step 0 and one at the last step. */
export interface EvalEvent {
  readonly event: 'eval';
  readonly step: number;
  readonly split: 'dev' | 'test';
  /** Sum of the token losses over the split divided by its trained tokens, in nats. */
  readonly loss: number;
  /** The task's metrics by name: perplexity, accuracy, tokenAccuracy, ... */
  readonly metrics: Readonly<Record<string, number>>;
}

/** Ranks changed hands: a round of ALoRA, or the set of live ranks of AdaLoRA or SoRA changed. */
export interface AllocationEvent {
  readonly event: 'allocation';
  readonly step: number;
  readonly round: number;
  /** `index` is row `index` of the module's lora_A, as numbered in this round's scores file. */
  readonly pruned: readonly { readonly module: string; readonly index: number; readonly score?: number }[];
  /** Ranks added, by module. */
  readonly grown: Readonly<Record<string, number>>;
  /** Live ranks of every module after the event, zeros included. */
  readonly ranks: Readonly<Record<string, number>>;
  /** The scores file, relative to the run folder. */
  readonly scores?: string;
  /** Loss on the round's dev batch: before, after pruning, after growing. */
  readonly loss?: { readonly before: number; readonly pruned: number; readonly grown: number };
  /** Things worth a warning: shares that were lost, scores that are not finite. */
  readonly notes?: readonly string[];
  /** Wall-clock seconds spent on scoring and reallocating. */
  readonly seconds?: number;
}

/** A line of `metrics.jsonl`. */
export type MetricsEvent = StepEvent | EvalEvent | AllocationEvent;

/** Something was written to the run folder. */
export interface CheckpointEvent {
  readonly step: number;
  /** `checkpoint`: enough for an exact resume; `best` and `adapter`: PEFT format. */
  readonly kind: 'checkpoint' | 'best' | 'adapter';
  /** Relative to the run folder. */
  readonly path: string;
}

/** Prompts of test that the best adapter has answered for the metrics of generated answers; the first event has 0. */
export interface AnswersEvent {
  readonly done: number;
  readonly prompts: number;
}

/** A generated sample: the same prompt before the first and after the last step. */
export interface SampleEvent {
  readonly when: 'before' | 'after';
  readonly prompt: string;
  readonly text: string;
}

/** Trained parameters counted one way: what the budget is met in. */
export interface BudgetCount {
  /** Trained scalars of the adapters, trained gates included, heads excluded. */
  readonly parameters: number;
  /** Sum of ranks over modules; fractional for an average over steps. */
  readonly ranks: number;
}

/** Every way of counting a budget; `at` says which must meet `target`. */
export interface BudgetReport {
  readonly at: 'final' | 'peak' | 'average';
  /** What the run file allows, in trained scalars. */
  readonly target: number;
  readonly peak: BudgetCount;
  readonly final: BudgetCount;
  readonly average: BudgetCount;
  /** Trained scalars of `modulesToSave` and of a new head, which the budget does not pay for. */
  readonly heads: number;
}

/** One adapted linear module, as planned at the start. */
export interface ModuleInfo {
  /** PEFT path without `base_model.model.`. */
  readonly name: string;
  readonly in: number;
  readonly out: number;
  /** Ranks at the start. */
  readonly rank: number;
  /** Trained scalars that one rank costs. */
  readonly costOfOneRank: number;
}

/** Rows and tokens of one split as the run uses them. */
export interface SplitInfo {
  readonly rows: number;
  /** Rows left out because nothing in them would be trained; `data` says why. */
  readonly dropped: number;
  /** Non-padding input tokens. */
  readonly tokens: number;
  /** Trained tokens; rows, for classification. */
  readonly labels: number;
}

/** The resolved plan of a run: all that is known before step 1. `train --dry-run` prints it. */
export interface RunInfo {
  readonly model: {
    readonly name: string;
    readonly path: string;
    /** The ONNX file relative to `path`. */
    readonly file: string;
    /** The architecture, as recovered from configuration and graph. */
    readonly backbone: string;
    readonly opset: number;
    /** Frozen scalars of the file. */
    readonly parameters: number;
  };
  readonly strategy: string;
  readonly task: string;
  readonly modules: readonly ModuleInfo[];
  /** Planned counts; the actual ones are in the result. */
  readonly budget: BudgetReport;
  readonly data: Readonly<Partial<Record<'train' | 'dev' | 'test', SplitInfo>>>;
  readonly totalSteps: number;
  readonly stepsPerEpoch: number;
  /** The step the run starts from: 0, or that of the checkpoint when resumed. */
  readonly startStep: number;
  readonly batchSize: number;
  readonly accumulate: number;
  readonly maxLength: number;
  readonly learningRate: number;
  readonly schedule: string;
  readonly warmupSteps: number;
  /** Steps between evaluations; 0: only the first and last step. */
  readonly evalEvery?: number;
  readonly seed: number;
  readonly device: string;
  readonly threads: number;
  /** How products with frozen weights are computed. */
  readonly compute: 'float32' | 'int8';
  /** Peak memory expected, in bytes. */
  readonly memoryEstimate?: number;
  readonly output: string;
}

/** One score of one split. */
export interface SplitResult {
  readonly loss: number;
  readonly metrics: Readonly<Record<string, number>>;
}

/** `result.json`: written last, and alone marks a run as finished. */
export interface RunResult {
  readonly strategy: string;
  readonly seed: number;
  /** sha256 of the resolved configuration without output and threads. */
  readonly configHash: string;
  readonly command: string;
  readonly budget: BudgetReport;
  /** Live ranks of every module at the end, zeros included. */
  readonly ranks: Readonly<Record<string, number>>;
  /** Optimizer steps made; below `totalSteps` if `stoppedEarly`. */
  readonly steps: number;
  readonly totalSteps: number;
  readonly stoppedEarly: boolean;
  readonly bestStep: number;
  /** Allocation events of the run. */
  readonly allocations: number;
  /** At step 0, at the best step and at the last step; test is measured with the best adapter. */
  readonly dev?: { readonly before: SplitResult; readonly best: SplitResult; readonly last: SplitResult };
  readonly test?: { readonly before?: SplitResult; readonly best: SplitResult };
  readonly samples?: readonly SampleEvent[];
  readonly seconds: number;
  /** Seconds spent on scoring and reallocating ranks, contained in `seconds`. */
  readonly secondsAllocating: number;
  /** Peak resident set, bytes. */
  readonly peakMemory: number;
  readonly versions: Readonly<Record<string, string>>;
  readonly machine: { readonly cpu: string; readonly cores: number; readonly memory: number };
  /** sha256 of the model file and of the data files, by role. */
  readonly hashes: Readonly<Record<string, string>>;
}

/** Observer of a run; every hook is optional. Nobody waits for one that is async. */
export interface Reporter {
  onRunStart?(info: RunInfo): void;
  onStep?(event: StepEvent): void;
  onEval?(event: EvalEvent): void;
  onAllocation?(event: AllocationEvent): void;
  onCheckpoint?(event: CheckpointEvent): void;
  onSample?(event: SampleEvent): void;
  onAnswers?(event: AnswersEvent): void;
  onWarning?(message: string): void;
  /** The run is finished and `result.json` is on the disk. */
  onRunEnd?(result: RunResult): void;
}

/** One reporter that passes every event to all; one whose hook throws or rejects is told of once and then left out. */
export function combineReporters(reporters: readonly Reporter[]): Required<Reporter> {
  const broken = new Set<Reporter>();
  const leaveOut = (reporter: Reporter, cause: unknown): void => {
    if (broken.has(reporter)) return;
    broken.add(reporter);
    const reason = cause instanceof Error ? cause.message : String(cause);
    emit((other) => other.onWarning?.(`a reporter failed and is left out: ${reason}`));
  };
  const emit = (call: (reporter: Reporter) => unknown): void => {
    for (const reporter of reporters) {
      if (broken.has(reporter)) continue;
      try {
        const told = call(reporter);
        if (told instanceof Promise) told.catch((cause: unknown) => leaveOut(reporter, cause));
      } catch (cause) {
        leaveOut(reporter, cause);
      }
    }
  };
  return {
    onRunStart: (info) => emit((r) => r.onRunStart?.(info)),
    onStep: (event) => emit((r) => r.onStep?.(event)),
    onEval: (event) => emit((r) => r.onEval?.(event)),
    onAllocation: (event) => emit((r) => r.onAllocation?.(event)),
    onCheckpoint: (event) => emit((r) => r.onCheckpoint?.(event)),
    onSample: (event) => emit((r) => r.onSample?.(event)),
    onAnswers: (event) => emit((r) => r.onAnswers?.(event)),
    onWarning: (message) => emit((r) => r.onWarning?.(message)),
    onRunEnd: (result) => emit((r) => r.onRunEnd?.(result)),
  };
}
