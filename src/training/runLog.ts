import type { AllocationReport } from '../adapters/strategy.ts';
import { writeFileAtomic } from '../atomicFiles.ts';
import {
  type AllocationEvent,
  combineReporters,
  type EvalEvent,
  type Reporter,
  type SplitResult,
  type StepEvent,
} from './reporter.ts';
import type { RunFolder } from './runFolder.ts';

/** What a run tells, in metrics.jsonl and to its reporters. */
export class RunLog {
  readonly reporter: Required<Reporter>;
  private readonly warned = new Set<string>();

  constructor(
    private readonly folder: RunFolder,
    reporters: readonly Reporter[],
  ) {
    this.reporter = combineReporters(reporters);
  }

  step(told: Omit<StepEvent, 'event'>): void {
    const event = { event: 'step', ...told } as const;
    this.folder.append(event);
    this.reporter.onStep(event);
  }

  evaluation(step: number, split: EvalEvent['split'], result: SplitResult): void {
    const event = { event: 'eval', step, split, ...result } as const;
    this.folder.append(event);
    this.reporter.onEval(event);
  }

  /** Also writes the scores file of the round; `ranks`: live ranks of every module after it. */
  allocation(step: number, report: AllocationReport, ranks: AllocationEvent['ranks']): void {
    const { round, pruned, grown, scores, loss, seconds, notes } = report;
    const path = scores && `scores/round-${round}.json`;
    if (path) writeFileAtomic(this.folder.file(path), `${JSON.stringify(scores)}\n`);
    const event = {
      event: 'allocation' as const,
      step,
      round,
      pruned,
      grown,
      ranks,
      ...(path ? { scores: path } : {}),
      ...(loss ? { loss } : {}),
      ...(seconds === undefined ? {} : { seconds }),
      ...(notes && notes.length > 0 ? { notes } : {}),
    };
    this.folder.append(event);
    this.reporter.onAllocation(event);
    for (const note of notes ?? []) this.warnOnce(note);
  }

  /** Rounds often say the same with other numbers: metrics.jsonl has them all. */
  private warnOnce(note: string): void {
    const kind = note.replace(/\d+ ranks?/g, 'ranks').replace(/\d+/g, '');
    if (!this.warned.has(kind)) this.reporter.onWarning(note);
    this.warned.add(kind);
  }
}
