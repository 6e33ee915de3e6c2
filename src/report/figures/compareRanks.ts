import { mean } from '../../compare/statistics.ts';
import type { ModuleRow } from '../modules.ts';
import type { Variant } from '../readCompare.ts';
import type { Figure } from './figure.ts';
import { type Cell, heatFigure } from './heat.ts';

const layerName = (layer: number | null) => (layer === null ? '\u2013' : String(layer));

/** At most one decimal: ranks are whole, their means over seeds are not. */
const shortNumber = (n: number): string => String(Math.round(n * 10) / 10).replace('-', '\u2212');

/** Highest mean final rank of any module in any variant: the top of the colours that all maps share. */
export const mostRanks = (variants: readonly Variant[]): number =>
  Math.max(1, ...variants.flatMap((variant) => averaged(variant).map(({ after }) => after)));

/** Modules of the finished runs, ranks averaged over the seeds. */
function averaged({ folders }: Variant): ModuleRow[] {
  const finished = folders.filter(({ result, modules }) => result && modules.length > 0);
  return (finished[0]?.modules ?? []).map((module) => {
    const same = finished.map(({ modules }) => modules.find(({ name }) => name === module.name) ?? module);
    return {
      ...module,
      before: mean(same.map(({ before }) => before)),
      after: mean(same.map(({ after }) => after)),
    };
  });
}

/** Final ranks of one method by layer and kind (the paper's Figures 3 and 4), and what changed where ranks moved. */
export function methodRankFigures(variant: Variant, id: string, high: number): Figure[] {
  const modules = averaged(variant);
  if (modules.length === 0) return [];
  const layers = [...new Set(modules.map((m) => m.layer))].sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
  const sides = {
    alongTitle: 'layer',
    along: layers.map(layerName),
    across: [...new Set(modules.map((m) => m.kind))],
  };
  const cells = (of: (m: ModuleRow) => number, text: (n: number) => string): Cell[] =>
    modules.map((m) => ({ along: layerName(m.layer), across: m.kind, value: of(m), text: text(of(m)) }));
  const seeds = variant.folders.length > 1 ? `, mean over ${variant.folders.length} seeds` : '';
  const change = (m: ModuleRow) => m.after - m.before;
  const swing = Math.max(...modules.map((m) => Math.abs(change(m))));
  const signed = (n: number) => (n > 0 ? `+${shortNumber(n)}` : n < 0 ? shortNumber(n) : '');
  return [
    heatFigure({
      id: `${id}-ranks`,
      title: `${variant.label}: ranks at the end`,
      caption: `By layer and kind of module${seeds}; all methods on the same colours.`,
      ...sides,
      cells: cells((m) => m.after, shortNumber),
      high,
    }),
    ...(swing > 0
      ? [
          heatFigure({
            id: `${id}-change`,
            title: `${variant.label}: what changed`,
            caption: 'Ranks won (blue) and lost (orange) since the start.',
            ...sides,
            cells: cells(change, signed),
            high: swing,
            diverging: true,
          }),
        ]
      : []),
  ];
}
