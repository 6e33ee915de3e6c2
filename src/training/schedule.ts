/** Learning-rate schedules, as factors of the peak rate. */
export interface ScheduleOptions {
  readonly totalSteps: number;
  /** Below 1 a share of the steps, else steps. */
  readonly warmup: number;
  readonly schedule: 'linear' | 'cosine' | 'constant';
}

/** W: below 1, ceil(warmup * T). */
export function warmupSteps({ totalSteps, warmup }: ScheduleOptions): number {
  return Math.min(totalSteps, warmup < 1 ? Math.ceil(warmup * totalSteps) : warmup);
}

/**
 * The factor of step k (from 1): (k-1)/W up to step W, so the first warm-up step has rate 0; then
 * (T-k+1)/(T-W) (linear), (1 + cos(pi (k-1-W)/(T-W)))/2 (cosine), or 1.
 */
export function rateFactor(step: number, options: ScheduleOptions): number {
  const { totalSteps, schedule } = options;
  const warm = warmupSteps(options);
  if (step <= warm) return (step - 1) / warm;
  const rest = totalSteps - warm;
  if (schedule === 'linear') return (totalSteps - step + 1) / rest;
  if (schedule === 'cosine') return (1 + Math.cos((Math.PI * (step - 1 - warm)) / rest)) / 2;
  return 1;
}
