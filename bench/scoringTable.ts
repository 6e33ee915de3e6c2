import { models, stepCase } from './cases.ts';
import { runBundled } from './processes.ts';
import type { Scored, ScoringCase, Time, Way } from './scoring.ts';
import { type Spread, spread } from './spread.ts';
import { type BenchTable, progress } from './table.ts';
import { gigabytes, grid, withRange } from './text.ts';

const titles: Readonly<Record<Way, string>> = {
  whole: 'naive: whole passes, head at every position',
  labelled: 'naive: head at labelled positions only',
  exact: 'exact',
  screened: 'screened',
  taylor: 'taylor',
};

interface ScoringResult {
  readonly model: string;
  /** One a turn. */
  readonly runs: Readonly<Record<Way, readonly Scored[]>>;
  /** Largest difference of a loss between whole passes and `exact`, over the settings that both measured. */
  readonly difference: number;
}

/** What one round of scoring costs, by way. */
export const scoringTable: BenchTable = {
  about: 'scoring all ranks once, on 32 rows with 16 labelled positions each: four minutes a model and turn',
  measure({ models: names, repeat, steps, threads }, show) {
    const ratios: Record<string, Spread> = {};
    const results = names
      .filter((model) => models[model]!.labellings.includes('instruction'))
      .map((model): ScoringResult => {
        const step = stepCase(model, 'instruction', { steps, threads });
        const runs = Object.fromEntries(Object.keys(titles).map((way) => [way, []])) as unknown as Record<
          Way,
          Scored[]
        >;
        for (let turn = 0; turn < repeat; turn++)
          for (const way of Object.keys(titles) as Way[]) {
            progress(`${model}: scoring, ${way}, ${turn + 1} of ${repeat}`);
            runs[way].push(runBundled<Scored>('scoring', { step, way } satisfies ScoringCase));
          }
        for (const way of ['exact', 'screened', 'taylor'] as const)
          ratios[`${model}, scoring, ${way}`] = timesFaster(runs, way, 'seconds');
        const [{ losses: naive }] = runs.whole as [Scored];
        const { losses: exact } = runs.exact[0]!;
        const difference = Math.max(
          ...Object.entries(naive).map(([setting, loss]) => Math.abs(loss - exact[setting]!)),
        );
        return { model, runs, difference };
      });
    for (const result of results) show(text(result));
    return { data: results, ratios };
  },
};

/** How much longer the naive loop takes. */
function timesFaster(runs: ScoringResult['runs'], way: Way, key: keyof Time): Spread {
  return spread(runs.whole.map(({ time }, turn) => time[key] / runs[way][turn]!.time[key]));
}

function text({ model, runs, difference }: ScoringResult): string {
  const { ranks } = runs.whole[0]!;
  const settings = 2 * ranks + 1;
  const sampled = (way: Way) => Object.keys(runs[way][0]!.losses).length;
  const { setting, shared } = runs.exact[0]!.parts!;
  const rows = (Object.keys(titles) as Way[]).map((way) => [
    titles[way],
    withRange(spread(runs[way].map(({ time }) => time.seconds)), 0),
    way === 'whole' ? '' : withRange(timesFaster(runs, way, 'seconds'), 1),
    withRange(spread(runs[way].map(({ time }) => time.cpu)), 0),
    way === 'whole' ? '' : withRange(timesFaster(runs, way, 'cpu'), 1),
    gigabytes(Math.max(...runs[way].map(({ peak }) => peak))),
  ]);
  return [
    `${models[model]!.title}: ${ranks} ranks, dev batch 32 x 128 with 16 labelled`,
    grid(['', 'seconds a round', 'times faster', 'processor', 'times less', 'peak memory'], rows),
    `A round of exact scores is ${settings} settings. Naive passes all cost the same: ${sampled('whole')} and ${sampled('labelled')} were timed, for ${settings}. exact: ${3 * sampled('exact')} settings in a module of every block, ${setting.seconds.toFixed(2)} s each and ${shared.seconds.toFixed(0)} s for what the settings of a module share. screened and taylor: a whole round, the rest of the choice as by default.`,
    `Largest difference of a loss between whole passes and exact: ${difference.toExponential(1)}`,
  ].join('\n');
}
