import {
  type AdapterScheduler,
  AloraError,
  type HostTrainer,
  type Json,
  type RunOutline,
} from 'onnx-alora/strategy';
import { type Allocation, allocate, roundSize } from './allocator.ts';
import { type RanksPerRound, type RoundSchedule, roundGroups } from './rounds.ts';
import { scoreTable, screenedCandidates } from './score.ts';
import { type ScorerName, scorers } from './scorers/index.ts';
import { importanceOf, type Scores } from './scorers/scorer.ts';

export interface RoundSettings {
  readonly schedule: RoundSchedule;
  readonly ranksPerRound: RanksPerRound;
  readonly examples: number;
  readonly scorer: ScorerName;
}

/** Algorithm 1 of the paper, lines 2 to 8, as a hook. Errors: SPLIT_MISSING (config) for a run without dev rows. */
export function allocationRounds(run: RunOutline, settings: RoundSettings): AdapterScheduler {
  const { schedule, examples } = settings;
  const { modules, budget, devRows } = run;
  if (schedule.rounds > 0 && devRows === 0)
    throw new AloraError('config', 'SPLIT_MISSING', 'The run file names no dev rows', {
      where: 'data.dev',
      fix: 'Set data.dev: ALoRA scores ranks on dev rows.',
    });
  const groups = roundGroups(modules, settings.ranksPerRound);
  const scorer = scorers[settings.scorer]();
  let roundsDone = 0;
  let searching = schedule.rounds > 0;

  function endSearch(host: HostTrainer): void {
    scorer.finish?.(host);
    searching = false;
  }

  async function round(host: HostTrainer): Promise<void> {
    const started = performance.now();
    const rows = host.devBatch(examples);
    const scores = await scorer.score(host, (importance) => screenedCandidates(importance, groups));
    roundsDone++;
    const seconds = () => (performance.now() - started) / 1000;
    if (!Number.isFinite(scores.full)) {
      host.log({
        round: roundsDone,
        pruned: [],
        grown: {},
        seconds: seconds(),
        notes: [
          'the loss on the dev batch is not finite, so no rank can be compared: nothing is pruned this round',
        ],
      });
      return;
    }
    const allocation = allocationFor(host, scores);
    const { adapters } = host;
    modules.forEach((module, m) => {
      const gone = allocation.pruned.filter(([of]) => of === m).map(([, rank]) => rank);
      if (gone.length > 0) host.prune(module, gone);
    });
    const pruned = await currentLoss(host);
    allocation.grown.forEach((count, m) => {
      if (count > 0) host.grow(modules[m]!, count);
    });
    const grown = await currentLoss(host);
    host.log({
      round: roundsDone,
      pruned: allocation.pruned.map(([m, index]) => ({
        module: modules[m]!.name,
        index,
        score: scores.ranks[m]![index]!.importance!,
      })),
      grown: Object.fromEntries(
        allocation.grown.flatMap((count, m) => (count > 0 ? [[modules[m]!.name, count]] : [])),
      ),
      scores: scoreTable(modules, settings.scorer, rows, scores),
      loss: { before: -scores.full, pruned, grown },
      seconds: seconds(),
      notes: notesOn(allocation, scores, adapters.liveParameters()),
    });
  }

  function allocationFor({ adapters }: HostTrainer, scores: Scores): Allocation {
    const ranks = modules.map((module) => adapters.rank(module));
    return allocate({
      importance: scores.averaged ?? importanceOf(scores.ranks),
      prunable: scores.prunable ?? importanceOf(scores.ranks),
      groups: groups.map(({ members, count }) => ({
        members,
        count: roundSize(
          count,
          members.reduce((sum, m) => sum + ranks[m]!, 0),
        ),
      })),
      costs: modules.map((module) => adapters.costOfRank(module)),
      caps: modules.map((module) => Math.min(module.in, module.out)),
      budget: budget.parameters,
    });
  }

  function notesOn(allocation: Allocation, scores: Scores, live: number): string[] {
    const notes: string[] = [];
    const asked = groups.reduce((sum, { count }) => sum + count, 0);
    const unmeasured = scores.ranks.flat().filter(({ importance }) => importance === null).length;
    const { pruned, shrunk, lost } = allocation;
    if (pruned.length < asked)
      notes.push(
        `${pruned.length} of ${asked} ranks pruned: a round takes half of the live ranks at the most, and none without a score`,
      );
    if (unmeasured > 0)
      notes.push(
        `${ranksIn(unmeasured)} ${unmeasured === 1 ? 'has' : 'have'} no finite score: kept for this round`,
      );
    if (shrunk > 0)
      notes.push(`every module lost a rank: ${ranksIn(shrunk)} not granted again, ${live} parameters live`);
    if (lost > 0)
      notes.push(
        `${ranksIn(lost)} found no module with room within ${budget.parameters} parameters, ${live} live`,
      );
    return notes;
  }

  return {
    beforeStep(host) {
      if (searching) scorer.beforeStep?.(host);
    },
    async afterStep(host) {
      if (!searching) return;
      await scorer.afterStep?.(host);
      if (host.step < schedule.first + roundsDone * schedule.every) return;
      await round(host);
      if (roundsDone === schedule.rounds) endSearch(host);
    },
    finish(host) {
      if (searching) endSearch(host);
    },
    heldBackShare: () => (searching ? (scorer.heldBackShare ?? 0) : 0),
    save: () => ({ roundsDone, searching, scorer: scorer.save?.() ?? null }),
    restore(state) {
      const saved = state as { roundsDone: number; searching: boolean; scorer: Json };
      ({ roundsDone, searching } = saved);
      if (saved.scorer !== null) scorer.restore?.(saved.scorer);
    },
  };
}

async function currentLoss(host: HostTrainer): Promise<number> {
  const [loss] = await host.losses([{ on: 'all', except: [] }]);
  return loss!;
}

const ranksIn = (count: number): string => (count === 1 ? '1 rank' : `${count} ranks`);
