import type { AdapterSet } from '../adapters/adapterSet.ts';
import type { Budget } from '../adapters/strategy.ts';
import type { BudgetReport } from './reporter.ts';

/** Sums behind peak and average, as they stand in a checkpoint. */
export interface LedgerState {
  readonly steps: number;
  readonly parameterSum: number;
  readonly rankSum: number;
  readonly peakParameters: number;
  readonly peakRanks: number;
}

/** Counts live ranks and parameters at every step: what a budget is checked against. */
export class BudgetLedger {
  private state: LedgerState = { steps: 0, parameterSum: 0, rankSum: 0, peakParameters: 0, peakRanks: 0 };
  constructor(
    private readonly adapters: AdapterSet,
    private readonly budget: Budget,
  ) {}

  private counts(): { parameters: number; ranks: number } {
    const { adapters } = this;
    return {
      parameters: adapters.liveParameters(),
      ranks: adapters.modules.reduce((sum, module) => sum + adapters.liveRank(module), 0),
    };
  }

  /** Notes the counts that a training step runs with. */
  record(): void {
    const { parameters, ranks } = this.counts();
    this.state = {
      steps: this.state.steps + 1,
      parameterSum: this.state.parameterSum + parameters,
      rankSum: this.state.rankSum + ranks,
      peakParameters: Math.max(this.state.peakParameters, parameters),
      peakRanks: Math.max(this.state.peakRanks, ranks),
    };
  }

  report(heads: number): BudgetReport {
    const final = this.counts();
    const { steps, parameterSum, rankSum, peakParameters, peakRanks } = this.state;
    return {
      at: this.budget.at,
      target: this.budget.parameters,
      peak: {
        parameters: Math.max(peakParameters, final.parameters),
        ranks: Math.max(peakRanks, final.ranks),
      },
      final,
      average: steps > 0 ? { parameters: parameterSum / steps, ranks: rankSum / steps } : final,
      heads,
    };
  }

  save(): LedgerState {
    return this.state;
  }

  restore(state: LedgerState): void {
    this.state = state;
  }
}
