import type { CompareRecord } from './record.ts';

/** One row a run, for people who plot themselves; RFC 4180, empty where a run has no number. */
export function csvOf(record: CompareRecord): string {
  const paths = [...Object.keys(record.grid), ...Object.keys(record.searched)];
  const head = [
    'method',
    'strategy',
    ...paths,
    'seed',
    'state',
    'steps',
    'stoppedEarly',
    'bestStep',
    'budget',
    'parametersPeak',
    'parametersFinal',
    'parametersAverage',
    ...record.columns.map(({ id }) => id),
    'seconds',
    'secondsAllocating',
    'stepMs',
    'tokensPerSecond',
    'peakMemory',
    'folder',
  ];
  const rows = record.variants.flatMap((variant) =>
    variant.runs.map((run) => {
      const method = record.methods[variant.method]!;
      const values = { ...variant.point, ...variant.search?.chosen };
      return [
        method.label,
        method.strategy,
        ...paths.map((path) => values[path]),
        run.seed,
        run.failure ? `${run.state}: ${run.failure.code}` : run.state,
        run.steps,
        run.stoppedEarly,
        run.bestStep,
        variant.plan.budget.target,
        run.budget?.peak.parameters,
        run.budget?.final.parameters,
        run.budget?.average.parameters,
        ...record.columns.map(({ id }) => run.values?.[id]),
        run.seconds,
        run.secondsAllocating,
        run.stepMs,
        run.tokensPerSecond,
        run.peakMemory,
        run.folder,
      ];
    }),
  );
  return `${[head, ...rows].map((row) => row.map(cell).join(',')).join('\n')}\n`;
}

function cell(value: unknown): string {
  if (value === undefined || value === null) return '';
  const text = typeof value === 'object' ? JSON.stringify(value) : String(value);
  return /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}
