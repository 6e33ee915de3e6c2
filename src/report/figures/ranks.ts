import type { Allocation } from '../events.ts';
import type { ModuleRow } from '../modules.ts';
import { sampled } from '../series.ts';
import type { Figure } from './figure.ts';
import { type Cell, type Heat, heatFigure } from './heat.ts';

const signed = (n: number): string => (n > 0 ? `+${n}` : n < 0 ? `\u2212${-n}` : '');
const layerName = (layer: number | null) => (layer === null ? '\u2013' : String(layer));

/** Layer x kind heat maps: ranks at the start, ranks at the end, and the difference. One map where none moved. */
export function rankFigures(modules: readonly ModuleRow[]): Figure[] {
  if (modules.length === 0) return [];
  const layers = [...new Set(modules.map((m) => m.layer))].sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
  const sides = {
    alongTitle: 'layer',
    along: layers.map(layerName),
    across: [...new Set(modules.map((m) => m.kind))],
  };
  const cells = (of: (m: ModuleRow) => number, text: (n: number) => string): Cell[] =>
    modules.map((m) => ({ along: layerName(m.layer), across: m.kind, value: of(m), text: text(of(m)) }));
  const moved = modules.some((m) => m.before !== m.after);
  const most = Math.max(1, ...modules.flatMap((m) => [m.before, m.after]));
  // The even start stands two thirds up the ramp, so that what grows still shows.
  const even = modules.reduce((sum, m) => sum + m.before, 0) / modules.length;
  const high = Math.max(most, 1.5 * even);
  const map = (id: string, title: string, caption: string, of: (m: ModuleRow) => number) =>
    heatFigure({ id, title, caption, ...sides, cells: cells(of, String), high });
  if (!moved)
    return [
      map('ranks', 'Ranks', 'Ranks by layer and kind of module; none moved in this run.', (m) => m.after),
    ];
  const swing = Math.max(...modules.map((m) => Math.abs(m.after - m.before)));
  return [
    map('ranks-before', 'Ranks at the start', 'By layer and kind of module.', (m) => m.before),
    map('ranks-after', 'Ranks at the end', 'On the same colours.', (m) => m.after),
    heatFigure({
      id: 'ranks-change',
      title: 'What changed',
      caption: 'Ranks won (blue) and lost (orange).',
      ...sides,
      cells: cells((m) => m.after - m.before, signed),
      high: swing,
      diverging: true,
    }),
  ];
}

/** Where ranks moved, round by round: change since the start, summed by kind of module, and by layer. */
export function rankHistoryFigures(
  modules: readonly ModuleRow[],
  allocations: readonly Allocation[],
): Figure[] {
  const shown = sampled(allocations, 16);
  if (shown.length === 0 || modules.length === 0) return [];
  const columns = ['start', ...shown.map((e) => String(e.step))];
  const history = (id: string, title: string, caption: string, group: (m: ModuleRow) => string): Figure => {
    const groups = [...new Set(modules.map(group))];
    const sums = (rankOf: (m: ModuleRow) => number) =>
      groups.map((g) => modules.filter((m) => group(m) === g).reduce((sum, m) => sum + rankOf(m), 0));
    const start = sums((m) => m.before);
    const cells = [start, ...shown.map((e) => sums((m) => e.ranks[m.name] ?? 0))].flatMap((totals, column) =>
      totals.map(
        (total, i): Cell => ({
          along: columns[column]!,
          across: groups[i]!,
          value: total - start[i]!,
          text: String(total),
        }),
      ),
    );
    const heat: Heat = {
      id,
      title,
      caption,
      cells,
      alongTitle: 'step',
      along: columns,
      across: groups,
      high: Math.max(1, ...cells.map((cell) => Math.abs(cell.value))),
      diverging: true,
    };
    return heatFigure(heat);
  };
  const of =
    shown.length < allocations.length
      ? `${shown.length} of ${allocations.length} allocations`
      : 'each allocation';
  const figures = [
    history(
      'ranks-by-kind',
      'Ranks over time, by kind',
      `Total ranks of each kind of module at the start and after ${of}; colour is the change since the start.`,
      (m) => m.kind,
    ),
  ];
  if (new Set(modules.map((m) => m.layer)).size > 1)
    figures.push(
      history(
        'ranks-by-layer',
        'Ranks over time, by layer',
        `Total ranks of each layer at the start and after ${of}; colour is the change since the start.`,
        (m) => (m.layer === null ? 'no layer' : `layer ${m.layer}`),
      ),
    );
  return figures;
}
