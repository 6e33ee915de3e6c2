import { AloraError } from 'onnx-alora/strategy';

/** When masks are drawn, in steps t counted from 0. */
export interface MaskSchedule {
  /** T */
  readonly totalSteps: number;
  /** Nothing is masked up to here. */
  readonly tInit: number;
  /** Length of the last phase; the final mask is drawn at T - tFinal. */
  readonly tFinal: number;
  /** Steps between masks. */
  readonly deltaT: number;
}

export interface ScheduleOptions {
  readonly tInit?: number | undefined;
  readonly tFinal?: number | undefined;
  readonly deltaT?: number | undefined;
}

/**
 * Fills in what the user left out: tInit = 0.1 T, tFinal = 0.5 T, a mask every 10 steps; shorter where the run
 * or a given value leaves less room. Errors: SCHEDULE_DOES_NOT_FIT for given values that no mask fits between.
 */
export function maskSchedule(totalSteps: number, given: ScheduleOptions): MaskSchedule {
  const last = given.tFinal === undefined ? totalSteps : totalSteps - given.tFinal;
  const tInit = given.tInit ?? Math.max(0, Math.min(Math.floor(0.1 * totalSteps), Math.floor(last / 5)));
  const tFinal =
    given.tFinal ?? Math.max(0, Math.floor(Math.min(0.5 * totalSteps, 0.75 * (totalSteps - tInit))));
  const range = totalSteps - tFinal - tInit;
  if (range <= 0)
    throw new AloraError('config', 'SCHEDULE_DOES_NOT_FIT', "AdaLoRA's phases do not fit into the run", {
      where: 'adapter.tInit, adapter.tFinal',
      got: `tInit ${tInit} and tFinal ${tFinal} in ${totalSteps} steps leave ${range} steps to mask in`,
      allowed: `tInit + tFinal below ${totalSteps}`,
      fix: 'Lower adapter.tInit or adapter.tFinal, or train for more steps.',
    });
  return {
    totalSteps,
    tInit,
    tFinal,
    deltaT: given.deltaT ?? Math.min(10, Math.max(1, Math.floor(range / 5))),
  };
}

/**
 * Share of the difference between the initial and the final budget that is still granted at step t:
 * 1 up to tInit, then (1 - (t - tInit) / (T - tFinal - tInit))^3, and 0 from T - tFinal on.
 */
export function cubicShare(t: number, { totalSteps, tInit, tFinal }: MaskSchedule): number {
  if (t <= tInit) return 1;
  if (t >= totalSteps - tFinal) return 0;
  return (1 - (t - tInit) / (totalSteps - tFinal - tInit)) ** 3;
}

/** What happens after step t: the budget in force and whether ranks are masked to it. */
export function budgetAt(
  t: number,
  schedule: MaskSchedule,
  initial: number,
  target: number,
): { readonly budget: number; readonly phase: 'warmup' | 'wait' | 'mask' | 'last mask' | 'final' } {
  const { totalSteps, tInit, tFinal, deltaT } = schedule;
  const budget = Math.floor(target + (initial - target) * cubicShare(t, schedule));
  if (t <= tInit) return { budget, phase: 'warmup' };
  if (t < totalSteps - tFinal) return { budget, phase: t % deltaT === 0 ? 'mask' : 'wait' };
  return { budget, phase: t === totalSteps - tFinal ? 'last mask' : 'final' };
}

/** Mean over the steps of the share that is in force during each: the cubic one, held between masks. */
export function averageShare(schedule: MaskSchedule): number {
  let share = 1;
  let sum = 0;
  for (let t = 0; t < schedule.totalSteps; t++) {
    sum += share;
    const { phase } = budgetAt(t, schedule, 1, 0);
    if (phase === 'mask' || phase === 'last mask') share = cubicShare(t, schedule);
  }
  return sum / schedule.totalSteps;
}
