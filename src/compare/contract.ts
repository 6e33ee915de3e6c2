import { AloraError } from '../errors.ts';
import type { RunInfo } from '../training/reporter.ts';
import { pointLabel, type Variant } from './expand.ts';
import type { PlanRecord } from './record.ts';

/**
 * Refuses a variant whose plan does not land in [0.99 N, N] at the moment that must meet the budget, before anything
 * runs. Throws `config` COMPARE_BUDGET with the numbers of all three moments.
 */
export function requireBudget(
  label: string,
  { point }: Pick<Variant, 'point'>,
  { budget }: PlanRecord,
): void {
  const planned = budget[budget.at].parameters;
  // A millionth of a scalar: an average is a quotient.
  if (planned >= 0.99 * budget.target && planned <= budget.target + 1e-6) return;
  const where = [label, pointLabel(point)].filter(Boolean).join(' at ');
  throw new AloraError('config', 'COMPARE_BUDGET', `${label} does not spend the budget that the others do`, {
    where,
    got: `${Math.round(planned)} parameters ${budget.at} (peak ${budget.peak.parameters}, final ${budget.final.parameters}, average ${Math.round(budget.average.parameters)})`,
    allowed: `99 to 100 % of ${budget.target}`,
    fix: 'remove the options that set ranks or thresholds past the budget, or set another budget.at',
  });
}

/** Refuses methods that would not train for as long as each other. */
export function requireEqualSteps(
  variants: readonly Variant[],
  plans: readonly PlanRecord[],
  labels: readonly string[],
): void {
  for (const [i, variant] of variants.entries()) {
    const first = variants.findIndex(({ point }) => JSON.stringify(point) === JSON.stringify(variant.point));
    if (plans[first]!.totalSteps === plans[i]!.totalSteps) continue;
    throw new AloraError('config', 'COMPARE_STEPS', 'the methods do not train for the same number of steps', {
      where: pointLabel(variant.point) || 'train',
      got: `${labels[variants[first]!.method]} ${plans[first]!.totalSteps}, ${labels[variant.method]} ${plans[i]!.totalSteps}`,
      fix: 'set train.steps, the same for all',
    });
  }
}

export const planRecord = ({ totalSteps, budget, modules }: RunInfo): PlanRecord => ({
  totalSteps,
  budget,
  modules,
});
