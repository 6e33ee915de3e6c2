import type { ModuleRow } from '../modules.ts';
import { idleScore, isAblation, quantile, type ScoredRound } from '../scores.ts';
import { colour } from '../theme.ts';
import { type Figure, figureSize } from './figure.ts';

const kept = 'kept';
const pruned = 'pruned';
const fate = {
  field: 'fate',
  type: 'nominal' as const,
  scale: { domain: [kept, pruned], range: [colour('blue'), colour('orange')] },
  legend: { symbolType: 'circle' as const, symbolSize: 80, symbolStrokeWidth: 0, symbolOpacity: 1 },
};

const axisTitle = (nats: boolean) => (nats ? 'importance (nats)' : 'importance');

/** Every rank's importance in one round, a row a kind of module and within it a line a layer. */
export function scoresFigure(round: ScoredRound, modules: readonly ModuleRow[]): Figure | undefined {
  const rows = modules.flatMap((m) =>
    (round.scores.modules[m.name] ?? [])
      .filter((rank) => Number.isFinite(rank.importance))
      .map((rank) => ({
        kind: m.kind,
        layer: m.layer ?? 0,
        importance: rank.importance,
        fate: round.pruned.has(`${m.name} ${rank.index}`) ? pruned : kept,
      })),
  );
  if (rows.length === 0) return undefined;
  // Drawn in this order: the few that were pruned stay on top.
  rows.sort((a, b) => Number(a.fate === pruned) - Number(b.fate === pruned));
  const kinds = [...new Set(modules.map((m) => m.kind))];
  const layers = [...new Set(modules.map((m) => m.layer ?? 0))].sort((a, b) => a - b);
  const { scorer, examples } = round.scores;
  const idle = idleScore(round.scores);
  const nats = isAblation(round.scores);
  return {
    id: `scores-round-${round.round}`,
    title: `Scores of every rank, round ${round.round} (step ${round.step})`,
    caption:
      `Importance by the ${scorer} scorer${examples ? ` on ${examples} examples` : ''}${nats ? ', in nats' : ''}; one mark a rank, ` +
      'within a row the first layer is on top. Lower is less useful.' +
      (idle === undefined ? '' : ' Dashed: the score of a rank that does nothing.'),
    draw: (layout) => ({
      ...figureSize(layout),
      height: 70 + kinds.length * Math.max(26, Math.min(44, layers.length * 4)),
      layer: [
        ...(idle === undefined
          ? []
          : [
              {
                data: { values: [{}] },
                mark: { type: 'rule' as const, stroke: colour('line'), strokeDash: [3, 3] },
                encoding: { x: { datum: idle } },
              },
            ]),
        {
          data: { values: rows },
          mark: { type: 'point', filled: true, size: layout === 'wide' ? 34 : 22, opacity: 0.85 },
          encoding: {
            x: {
              field: 'importance',
              type: 'quantitative',
              title: axisTitle(nats),
              scale: { zero: false },
              axis: { tickCount: layout === 'wide' ? 8 : 4 },
            },
            y: {
              field: 'kind',
              type: 'nominal',
              title: null,
              sort: kinds,
              scale: { domain: kinds, paddingInner: 0.36 },
              axis: { grid: true, labelColor: colour('ink'), labelLimit: layout === 'wide' ? 220 : 120 },
            },
            yOffset: { field: 'layer', type: 'ordinal', sort: layers, scale: { domain: layers } },
            color: fate,
          },
        },
      ],
    }),
  };
}

/** How the scores lie in each round: the middle half as a bar, 5 to 95 % as a line, the pruned ranks as marks. */
export function scoreRoundsFigure(rounds: readonly ScoredRound[]): Figure | undefined {
  const boxes: Record<string, number>[] = [];
  const marks: { round: number; importance: number; fate: string }[] = [];
  for (const { round, scores, pruned: removed } of rounds) {
    const ranks = Object.entries(scores.modules).flatMap(([module, list]) =>
      list.map((rank) => ({ importance: rank.importance, gone: removed.has(`${module} ${rank.index}`) })),
    );
    const sorted = ranks
      .map((r) => r.importance)
      .filter(Number.isFinite)
      .sort((a, b) => a - b);
    if (sorted.length === 0) continue;
    const [p5, p25, p50, p75, p95] = [0.05, 0.25, 0.5, 0.75, 0.95].map((share) => quantile(sorted, share));
    boxes.push({ round, p5: p5!, p25: p25!, p50: p50!, p75: p75!, p95: p95! });
    for (const rank of ranks)
      if (rank.gone && Number.isFinite(rank.importance))
        marks.push({ round, importance: rank.importance, fate: pruned });
  }
  if (boxes.length < 2) return undefined;
  const every = [...new Set(boxes.map((box) => box.round!))];
  const idles = rounds.map(({ scores }) => idleScore(scores) ?? Number.NaN);
  // The base model on the same rows: the same in every round.
  const idle = idles.every((score) => Math.abs(score - idles[0]!) < 1e-6) ? idles[0] : undefined;
  return {
    id: 'scores-over-rounds',
    title: 'Scores over the rounds',
    caption:
      'Bar: the middle half of all ranks, with the median; line: 5 to 95 %; orange: the ranks that the round pruned.' +
      (idle === undefined ? '' : ' Grey: the score of a rank that does nothing.'),
    draw: (layout) => ({
      ...figureSize(layout),
      height: 250,
      encoding: {
        x: {
          field: 'round',
          type: 'ordinal',
          title: 'round',
          scale: { domain: every },
          axis: { labelAngle: 0, labelOverlap: true, labelFlush: false, domain: false },
        },
      },
      layer: [
        ...(idle === undefined
          ? []
          : [
              {
                data: { values: every.map((round) => ({ round, idle })) },
                mark: { type: 'tick' as const, fill: colour('muted'), thickness: 1.5, width: { band: 0.9 } },
                encoding: { y: { field: 'idle', type: 'quantitative' as const } },
              },
            ]),
        {
          data: { values: boxes },
          mark: { type: 'rule', stroke: colour('line'), strokeWidth: 1.5 },
          encoding: {
            y: {
              field: 'p5',
              type: 'quantitative',
              title: axisTitle(rounds.every(({ scores }) => isAblation(scores))),
              scale: { zero: false },
            },
            y2: { field: 'p95' },
          },
        },
        {
          data: { values: boxes },
          mark: { type: 'bar', fill: colour('blueFaint'), width: { band: 0.35 }, cornerRadius: 2 },
          encoding: { y: { field: 'p25', type: 'quantitative' }, y2: { field: 'p75' } },
        },
        {
          data: { values: boxes },
          mark: { type: 'tick', fill: colour('blue'), thickness: 2.5, width: { band: 0.35 } },
          encoding: { y: { field: 'p50', type: 'quantitative' } },
        },
        {
          data: { values: marks },
          mark: { type: 'point', filled: true, fill: colour('orange'), size: 30, opacity: 0.9 },
          encoding: { y: { field: 'importance', type: 'quantitative' } },
        },
      ],
    }),
  };
}
