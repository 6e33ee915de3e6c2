import { join } from 'node:path';
import { RunFolder } from '../training/runFolder.ts';
import { pointLabel } from './expand.ts';
import type { Check, MethodRecord, RunRecord, VariantRecord } from './record.ts';
import { sameValues } from './summary.ts';

type Measured = Pick<VariantRecord, 'method' | 'point' | 'plan' | 'runs'>;

/** Runs of the same seed at the same point of the grid: what has to be treated alike. */
interface Group {
  readonly name: string;
  readonly runs: readonly { readonly label: string; readonly run: RunRecord }[];
}

function groups(variants: readonly Measured[], methods: readonly MethodRecord[]): Group[] {
  return variants
    .filter((variant, i) => variants.findIndex((other) => sameValues(other.point, variant.point)) === i)
    .flatMap(({ point, runs }) =>
      runs.map(
        ({ seed }): Group => ({
          name: [pointLabel(point), `seed ${seed}`].filter(Boolean).join(', '),
          runs: variants
            .filter((other) => sameValues(other.point, point))
            .map((other) => ({
              label: methods[other.method]!.label,
              run: other.runs.find((run) => run.seed === seed)!,
            })),
        }),
      ),
    );
}

interface Condition<T> {
  readonly name: string;
  /** What has to be the same, as the subject of a sentence. */
  readonly what: string;
  of(run: RunRecord): T;
  alike(a: T, b: T): boolean;
}

/** Whether a condition holds among the finished runs of each group. */
function equal<T>(all: readonly Group[], { name, what, of, alike }: Condition<T>): Check {
  let compared = 0;
  for (const group of all) {
    const finished = group.runs.filter(({ run }) => run.state === 'finished');
    const first = finished[0];
    if (!first) continue;
    const expected = of(first.run);
    const other = finished.find(({ run }) => !alike(expected, of(run)));
    if (other)
      return {
        name,
        state: 'failed',
        detail: `${what} differ between ${first.label} and ${other.label} (${group.name})`,
      };
    compared += finished.length;
  }
  const complete = all.every(({ runs }) => runs.every(({ run }) => run.state === 'finished'));
  return {
    name,
    state: complete ? 'ok' : 'open',
    detail: complete
      ? `${what} are the same in all ${compared} runs, seed by seed`
      : `${what} are the same in the ${compared} runs that have finished`,
  };
}

/** The conditions of identical treatment, checked on the files that the runs wrote. */
export function checkTreatment(
  output: string,
  variants: readonly Measured[],
  methods: readonly MethodRecord[],
): Check[] {
  const all = groups(variants, methods);
  const events = new Map<string, ReturnType<RunFolder['events']>>();
  const eventsOf = ({ folder }: RunRecord) => {
    const known = events.get(folder) ?? new RunFolder(join(output, folder)).events();
    events.set(folder, known);
    return known;
  };
  const evaluations = (run: RunRecord) =>
    eventsOf(run).flatMap((event) => (event.event === 'eval' ? [event] : []));
  return [
    budgetCheck(variants, methods),
    recountCheck(variants, methods),
    equal(all, {
      name: 'Steps',
      what: 'optimizer steps',
      of: (run) => run.steps,
      alike: Object.is,
    }),
    equal(all, {
      name: 'Data order',
      what: 'tokens and labels of every step',
      of: (run) => eventsOf(run).filter((event) => event.event === 'step'),
      alike: (a, b) =>
        a.length === b.length &&
        a.every(({ step, tokens, labels }, i) => {
          const other = b[i]!;
          return step === other.step && tokens === other.tokens && labels === other.labels;
        }),
    }),
    equal(all, {
      name: 'Evaluation',
      what: 'splits and steps that were evaluated',
      of: evaluations,
      alike: (a, b) =>
        a.length === b.length &&
        a.every(({ step, split }, i) => step === b[i]!.step && split === b[i]!.split),
    }),
    equal(all, {
      name: 'Start',
      what: 'losses before the first step',
      of: (run) => evaluations(run).filter(({ step }) => step === 0),
      // Every method starts as the frozen model: the same rows give the same loss, up to the rounding of the graphs.
      alike: (a, b) => a.every(({ loss }, i) => Math.abs(loss - (b[i]?.loss ?? Number.NaN)) <= 1e-3 * loss),
    }),
    seedsCheck(variants, methods),
  ];
}

function budgetCheck(variants: readonly Measured[], methods: readonly MethodRecord[]): Check {
  const finished = variants.flatMap((variant) =>
    variant.runs.flatMap(({ budget }) => (budget ? [{ variant, budget }] : [])),
  );
  const counted = ({ budget }: (typeof finished)[number]) => budget[budget.at].parameters;
  // A millionth of a scalar: an average is a quotient.
  const above = finished.find((run) => counted(run) > run.budget.target + 1e-6);
  if (above)
    return {
      name: 'Budget',
      state: 'failed',
      detail: `${methods[above.variant.method]!.label} spends ${counted(above)} of ${above.budget.target} parameters (${above.budget.at})`,
    };
  const short = shortfalls(variants, methods);
  const complete = finished.length === variants.flatMap(({ runs }) => runs).length;
  return {
    name: 'Budget',
    state: complete ? 'ok' : 'open',
    detail: [
      `${finished.length} runs at or below the budget, counted at the moment that the file names`,
      ...short.map((line) => `below 99 %: ${line}`),
    ].join('; '),
  };
}

/** Methods of which a run ended below 99 % of the budget, with the lowest share. */
export function shortfalls(variants: readonly Measured[], methods: readonly MethodRecord[]): string[] {
  return variants.flatMap(({ method, point, runs }) => {
    const shares = runs.flatMap(({ budget }) =>
      budget ? [budget[budget.at].parameters / budget.target] : [],
    );
    const least = Math.min(...shares);
    if (shares.length === 0 || least >= 0.99) return [];
    const where = pointLabel(point);
    return [
      `${methods[method]!.label}${where && ` at ${where}`} ends with ${(100 * least).toFixed(1)} % of it`,
    ];
  });
}

function recountCheck(variants: readonly Measured[], methods: readonly MethodRecord[]): Check {
  let count = 0;
  for (const { method, runs } of variants)
    for (const { recounted, budget, folder } of runs) {
      if (!recounted || !budget) continue;
      count++;
      if (recounted.adapter !== budget.final.parameters)
        return {
          name: 'Recount',
          state: 'failed',
          detail: `${methods[method]!.label} records ${budget.final.parameters} parameters, ${folder}/adapter holds ${recounted.adapter}`,
        };
    }
  return {
    name: 'Recount',
    state: count === variants.flatMap(({ runs }) => runs).length ? 'ok' : 'open',
    detail: `the tensors of ${count} saved adapters hold as many parameters as their runs recorded`,
  };
}

function seedsCheck(variants: readonly Measured[], methods: readonly MethodRecord[]): Check {
  const missing = variants.flatMap(({ method, point, runs }) => {
    const seeds = runs.filter(({ state }) => state !== 'finished').map(({ seed }) => seed);
    const where = pointLabel(point);
    return seeds.length > 0
      ? [`${methods[method]!.label}${where && ` at ${where}`} lacks seed ${seeds.join(', ')}`]
      : [];
  });
  return {
    name: 'Seeds',
    state: missing.length === 0 ? 'ok' : 'open',
    detail: missing.length === 0 ? 'every method has finished every seed' : missing.join('; '),
  };
}
