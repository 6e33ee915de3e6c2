import { AloraError, type TargetModule } from 'onnx-alora/strategy';

/** Round n (from 0) happens after step `first + n * every`. */
export interface RoundSchedule {
  readonly first: number;
  readonly every: number;
  readonly rounds: number;
}

/** A number of steps, or `"0.25 epochs"`. */
export type Duration = number | string;

export interface RoundOptions {
  readonly firstRoundAfter?: Duration | undefined;
  readonly roundEvery?: Duration | undefined;
  readonly rounds?: number | undefined;
}

export const durationPattern = /^(\d+(?:\.\d+)?|\.\d+) epochs?$/;

/** Steps of a duration, rounded up, at least one. */
export function stepsOf(duration: Duration, stepsPerEpoch: number): number {
  if (typeof duration === 'number') return duration;
  return Math.max(1, Math.ceil(Number(durationPattern.exec(duration)![1]) * stepsPerEpoch));
}

/**
 * K1 = 1 epoch, K2 = 0.25 epochs and N_A = 8 rounds, as far as the user gave nothing else. Where these would end
 * (K1 + N_A K2) after three quarters of the run, the ones not given shrink in proportion.
 * Errors: SCHEDULE_DOES_NOT_FIT where given values put the last round behind the last step.
 */
export function roundSchedule(totalSteps: number, stepsPerEpoch: number, given: RoundOptions): RoundSchedule {
  const { firstRoundAfter, roundEvery } = given;
  let first = stepsOf(firstRoundAfter ?? '1 epoch', stepsPerEpoch);
  let every = stepsOf(roundEvery ?? '0.25 epochs', stepsPerEpoch);
  let rounds = given.rounds ?? 8;
  if (rounds === 0) return { first, every, rounds };
  const limit = firstRoundAfter !== undefined && first >= 0.75 * totalSteps ? totalSteps : 0.75 * totalSteps;
  const share = limit / (first + rounds * every);
  if (share < 1) {
    if (firstRoundAfter === undefined) {
      const room =
        roundEvery !== undefined && given.rounds !== undefined ? limit - rounds * every : share * first;
      first = Math.max(1, Math.floor(room));
    }
    if (roundEvery === undefined) every = Math.max(1, Math.floor((limit - first) / rounds));
    if (given.rounds === undefined)
      rounds = Math.min(rounds, Math.max(1, Math.floor((limit - first) / every)));
  }
  const last = first + (rounds - 1) * every;
  if (last > totalSteps)
    throw new AloraError('config', 'SCHEDULE_DOES_NOT_FIT', "ALoRA's rounds do not fit into the run", {
      where: 'adapter.firstRoundAfter, adapter.roundEvery, adapter.rounds',
      got: `${rounds} rounds from step ${first} on, every ${every} steps: the last one after step ${last} of ${totalSteps}`,
      allowed: `firstRoundAfter + (rounds - 1) * roundEvery up to ${totalSteps}`,
      fix: 'Lower one of the three, leave it out, or train for more steps.',
    });
  return { first, every, rounds };
}

/** n_A: a number; `perModel`: as many as a block has modules, over the whole model; `perBlock`: so many in each. */
export type RanksPerRound = number | 'perModel' | 'perBlock';

/** Which modules compete with each other, and how many ranks they lose in a round before any clamp. */
export function roundGroups(
  modules: readonly TargetModule[],
  ranksPerRound: RanksPerRound,
): { readonly members: readonly number[]; readonly count: number }[] {
  const all = modules.map((_, i) => i);
  const blocks = [...new Set(modules.map(({ block }) => block))];
  if (ranksPerRound === 'perBlock')
    return blocks.map((block) => {
      const members = all.filter((i) => modules[i]!.block === block);
      return { members, count: members.length };
    });
  const inBlocks = blocks.filter((block) => block !== null).length;
  const count =
    ranksPerRound === 'perModel'
      ? Math.max(1, Math.round(modules.length / Math.max(1, inBlocks)))
      : ranksPerRound;
  return [{ members: all, count }];
}
