import type { RunConfig } from '../config/schema.ts';
import { stringifyRunConfig } from '../config/write.ts';
import type { ModuleInfo, RunInfo } from '../training/reporter.ts';
import { thousands } from './format.ts';
import { panel, runPanel } from './panel.ts';
import { table } from './table.ts';
import { coloursFor, isLive, type Output, widthOf } from './terminal.ts';

/** What `train --dry-run` prints: the run, what its adapter costs, and the resolved run file. */
export function printPlan(config: RunConfig, plan: RunInfo, out: Output): void {
  const colours = coloursFor(out);
  const { budget } = plan;
  const counts = (['final', 'peak', 'average'] as const).map((at) => [
    at === budget.at ? `${at} (must meet the budget)` : at,
    thousands(budget[at].parameters),
    thousands(budget[at].ranks),
    `${((100 * budget[at].parameters) / budget.target).toFixed(1)} %`,
  ]);
  out.write(
    `${[
      panel(`onnx-alora · ${plan.strategy} · dry run`, runPanel(plan), widthOf(out), isLive(out), colours),
      table(
        ['modules', 'count', 'in', 'out', 'cost of a rank', 'ranks', 'parameters'],
        byKind(plan.modules),
        'lrrrrrr',
        colours,
      ),
      table(['count', 'parameters', 'ranks', `of ${thousands(budget.target)}`], counts, 'lrrr', colours),
      colours.dim('resolved run file:'),
      stringifyRunConfig(config, process.cwd()),
    ].join('\n\n')}`,
  );
}

/** Modules of one name ending and one shape as one row. */
function byKind(modules: readonly ModuleInfo[]): string[][] {
  const kinds = new Map<string, ModuleInfo[]>();
  for (const module of modules) {
    const kind = `${module.name.split('.').at(-1)} ${module.in} ${module.out}`;
    kinds.set(kind, [...(kinds.get(kind) ?? []), module]);
  }
  return [...kinds.values()].map((group) => {
    const first = group[0]!;
    const ranks = group.reduce((sum, module) => sum + module.rank, 0);
    return [
      first.name.split('.').at(-1)!,
      ...[group.length, first.in, first.out, first.costOfOneRank, ranks, ranks * first.costOfOneRank].map(
        thousands,
      ),
    ];
  });
}
