import type { BudgetReport, ModuleInfo, RunInfo } from '../training/reporter.ts';
import { type Point, pointLabel } from './expand.ts';
import type { Failure } from './runner.ts';
import type { PairedDifference, Summary } from './statistics.ts';

/** One column of the result table. */
export interface Column {
  /** `test.accuracy`, `dev.loss`. */
  readonly id: string;
  readonly split: 'dev' | 'test';
  readonly metric: string;
  readonly lowerIsBetter: boolean;
}

/** One entry of `strategies:`. */
export interface MethodRecord {
  readonly label: string;
  readonly strategy: string;
  readonly options: Readonly<Record<string, unknown>>;
}

/** One setting that a search tried, and its best dev loss; null where the run failed. */
export interface Trial {
  readonly values: Point;
  readonly folder: string;
  readonly devLoss: number | null;
  readonly failure?: Failure;
}

/** What a search of one variant tried and chose. */
export interface SearchRecord {
  readonly seed: number;
  readonly trials: readonly Trial[];
  readonly chosen: Point;
  /** Paths whose best value is the first or last of several: the list may be too short. */
  readonly atEdge: readonly string[];
}

/** What was planned before the first step. */
export interface PlanRecord {
  readonly totalSteps: number;
  readonly budget: BudgetReport;
  readonly modules: readonly ModuleInfo[];
}

/** One run: a variant with a seed. */
export interface RunRecord {
  readonly seed: number;
  /** Relative to the output folder. */
  readonly folder: string;
  readonly state: 'finished' | 'failed' | 'open';
  readonly failure?: Failure;
  readonly steps?: number;
  readonly stoppedEarly?: boolean;
  readonly bestStep?: number;
  readonly budget?: BudgetReport;
  /** Scalars counted in the tensors of adapter/ and best/, by the cost of one rank of each module. */
  readonly recounted?: { readonly adapter: number; readonly best: number };
  /** By column id. */
  readonly values?: Readonly<Record<string, number>>;
  readonly seconds?: number;
  readonly secondsAllocating?: number;
  readonly peakMemory?: number;
  /** Median milliseconds of a step, and input tokens a second over all steps. */
  readonly stepMs?: number;
  readonly tokensPerSecond?: number;
}

/** A method at one point of the grid. */
export interface VariantRecord {
  readonly method: number;
  readonly point: Point;
  readonly folder: string;
  readonly plan: PlanRecord;
  readonly search?: SearchRecord;
  readonly runs: readonly RunRecord[];
  /** By column id; finished runs only. */
  readonly summary: Readonly<Record<string, Summary>>;
  /** This method minus the baseline at the same point, over the seeds that both finished. */
  readonly againstBaseline: Readonly<Record<string, PairedDifference>>;
  /** Columns in which it has the best median and is ahead of every other method with an interval that excludes zero. */
  readonly ahead: readonly string[];
}

/** One thing that identical treatment means, checked on what the runs wrote. */
export interface Check {
  readonly name: string;
  /** `open`: not all runs that it needs have finished. */
  readonly state: 'ok' | 'failed' | 'open';
  readonly detail: string;
}

/** `compare.json`: a whole comparison. It holds no time of day, so the same runs give the same bytes. */
export interface CompareRecord {
  readonly format: 1;
  readonly command: string;
  /** The compare file as written. */
  readonly source: string;
  readonly model: RunInfo['model'];
  readonly task: string;
  readonly data: RunInfo['data'];
  /** The one learning rate of all methods, or null where it is searched, in the grid, or a strategy's own. */
  readonly learningRate: number | null;
  readonly seeds: readonly number[];
  readonly baseline: string;
  readonly grid: Readonly<Record<string, readonly unknown[]>>;
  readonly searched: Readonly<Record<string, readonly unknown[]>>;
  readonly columns: readonly Column[];
  readonly methods: readonly MethodRecord[];
  readonly variants: readonly VariantRecord[];
  readonly checks: readonly Check[];
  readonly versions: Readonly<Record<string, string>>;
  readonly machine?: { readonly cpu: string; readonly cores: number; readonly memory: number };
  /** sha256 of model file and data files, as the runs recorded them. */
  readonly hashes: Readonly<Record<string, string>>;
}

/** Runs of the comparison that have no result. */
export const unfinished = (record: CompareRecord): RunRecord[] =>
  record.variants.flatMap(({ runs }) => runs.filter(({ state }) => state !== 'finished'));

/** `lora`, `lora at budget.rank 4`: a method with the point of the grid that it stands at. */
export const variantName = (
  record: Pick<CompareRecord, 'methods'>,
  { method, point }: Pick<VariantRecord, 'method' | 'point'>,
): string => {
  const where = pointLabel(point);
  return `${record.methods[method]!.label}${where && ` at ${where}`}`;
};
