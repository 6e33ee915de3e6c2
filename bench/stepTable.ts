import { median } from '../src/compare/statistics.ts';
import { type Labelling, models, type StepCase, shape, stepCase } from './cases.ts';
import type { BenchOptions } from './options.ts';
import { findPython, isHalf, type Measured, runOurs, runPeer, type Variant } from './processes.ts';
import { pairedRatio, type Spread } from './spread.ts';
import { type BenchTable, progress, type TableResult } from './table.ts';
import { type Cell, gigabytes, grid, seconds, withRange } from './text.ts';

interface Contender {
  readonly name: string;
  /** Of a peer. */
  readonly variant?: Variant;
  run(): Measured;
}

interface Entry extends Omit<Contender, 'run'> {
  /** One a turn. */
  readonly runs: readonly Measured[];
  /** Why it did not run. */
  readonly failure?: string;
}

interface CaseResult {
  readonly model: string;
  readonly labelling: Labelling;
  /** Ours first. */
  readonly entries: readonly [Entry, ...Entry[]];
}

/** A step of ours and of PyTorch + PEFT by turns: time and peak memory of each model and labelling. */
export const stepTable: BenchTable = {
  about: `LoRA of rank ${shape.rank}, batch ${shape.batch} x ${shape.length}, AdamW: ours and PyTorch + PEFT by turns, time and peak memory; two minutes a model`,
  measure(options, show) {
    const found = options.peers.length > 0 ? findPython() : undefined;
    if (found && 'missing' in found) progress(`PyTorch + PEFT left out: ${found.missing}`);
    const python = found && 'python' in found ? found.python : undefined;
    const results: CaseResult[] = [];
    for (const model of options.models)
      for (const labelling of models[model]!.labellings.filter((name) => options.labellings.includes(name))) {
        const step = stepCase(model, labelling, options);
        const result = measure(model, labelling, contenders(step, python, options), options);
        results.push(result);
        show(text(result));
      }
    const measured = results.flatMap(({ entries }) => entries.flatMap(({ runs }) => runs));
    return {
      data: { shape, results },
      ratios: Object.assign({}, ...results.map(ratiosOf)) as TableResult['ratios'],
      versions: measured.find(({ versions }) => versions)?.versions,
    };
  },
};

/** Settings that are not the default, as words. */
const settings = ({ compute, recompute }: StepCase) => [
  ...(compute === 'int8' ? ['int8'] : []),
  ...(recompute ? ['recompute'] : []),
];

function contenders(step: StepCase, python: string | undefined, { peers }: BenchOptions): Contender[] {
  const ours = { name: ['onnx-alora', ...settings(step)].join(' '), run: () => runOurs(step) };
  if (!python) return [ours];
  return [
    ours,
    ...peers.map((variant) => ({
      name: `PyTorch ${variant}`,
      variant,
      run: () => runPeer(python, variant, step),
    })),
  ];
}

function measure(
  model: string,
  labelling: Labelling,
  contenders: readonly Contender[],
  { repeat }: BenchOptions,
): CaseResult {
  const runs = contenders.map((): Measured[] => []);
  const failures = new Map<number, string>();
  for (let turn = 0; turn < repeat; turn++)
    for (const [i, { name, variant, run }] of contenders.entries()) {
      if (failures.has(i)) continue;
      progress(`${model}, ${labelling}: ${name}, ${turn + 1} of ${repeat}`);
      try {
        runs[i]!.push(run());
      } catch (error) {
        if (!variant) throw error;
        failures.set(i, error instanceof Error ? error.message : String(error));
      }
    }
  const [ours, ...others] = contenders.map(
    ({ name, variant }, i): Entry => ({ name, variant, runs: runs[i]!, failure: failures.get(i) }),
  );
  return { model, labelling, entries: [ours!, ...others] };
}

const stepsOf = ({ runs }: Entry) => runs.map(({ steps }) => steps);
const peaksOf = ({ runs }: Entry) => runs.map(({ peak }) => [peak]);
const peak = (entry: Entry) => Math.max(...peaksOf(entry).flat());
const typical = (entry: Entry) => median(stepsOf(entry).flat());
const hasRun = ({ runs }: Entry) => runs.length > 0;

const labelled: Readonly<Record<Labelling, string>> = {
  all: 'all positions labelled',
  instruction: `last ${shape.answer} of ${shape.length} labelled`,
  classification: 'one class a row',
};

function text({ model, labelling, entries }: CaseResult): string {
  const [ours, ...others] = entries;
  const rows = entries.map((entry): Cell[] => {
    if (!hasRun(entry)) return [entry.name, 'did not run', '', '', '', ''];
    const all = stepsOf(entry).flat();
    return [
      entry.name,
      `${seconds(median(all))} (${Math.min(...all).toFixed(2)} .. ${Math.max(...all).toFixed(2)})`,
      entry === ours ? '' : withRange(pairedRatio(stepsOf(entry), stepsOf(ours))),
      seconds(median(entry.runs.flatMap(({ cpu }) => cpu))),
      gigabytes(peak(entry)),
      entry === ours ? '' : withRange(pairedRatio(peaksOf(ours), peaksOf(entry))),
    ];
  });
  const outside = median(ours.runs.flatMap((run) => run.outside ?? [])) / typical(ours);
  const start = median(ours.runs.map((run) => (run.loadSeconds ?? 0) + (run.buildSeconds ?? 0)));
  const losses = entries.filter(hasRun).map(({ name, runs }) => `${name} ${runs[0]!.loss.toFixed(3)}`);
  return [
    `${models[model]!.title}, ${labelled[labelling]}`,
    grid(['', 'step', 'times ours', 'processor', 'peak memory', 'ours to theirs'], rows),
    ...entries.flatMap(({ name, failure }) => (failure ? [`${name} did not run: ${failure}`] : [])),
    ...summary(ours, others),
    `ours: ${(100 * outside).toFixed(1)} % of a step outside ONNX Runtime, ready ${seconds(start)} after the start`,
    ...(others.length > 0 ? [`loss: ${losses.join(', ')}`] : []),
  ].join('\n');
}

/** Ours beside the fastest of each precision. */
function summary(ours: Entry, others: readonly Entry[]): string[] {
  const best = (half: boolean): Entry | undefined =>
    others
      .filter((entry) => hasRun(entry) && entry.variant && isHalf(entry.variant) === half)
      .sort((a, b) => typical(a) - typical(b))[0];
  const [single, half] = [best(false), best(true)];
  const times = [single, half].flatMap((entry) =>
    entry
      ? [
          `${withRange(pairedRatio(stepsOf(entry), stepsOf(ours)))} times as fast as the best ${entry === half ? 'bf16' : 'fp32'} (${entry.variant})`,
        ]
      : [],
  );
  if (times.length === 0) return [];
  const memory = single
    ? `; peak memory ${withRange(pairedRatio(peaksOf(ours), peaksOf(single)))} of the best fp32's`
    : '';
  return [`ours is ${times.join(' and ')}${memory}`];
}

/** Of each peer to ours: time of a step, and peak memory. */
function ratiosOf({ model, labelling, entries: [ours, ...others] }: CaseResult): Record<string, Spread> {
  const row = [model, labelling, ...ours.name.split(' ').slice(1)].join(', ');
  return Object.fromEntries(
    others.filter(hasRun).flatMap((entry) => [
      [`${row}: time of ${entry.name}`, pairedRatio(stepsOf(entry), stepsOf(ours))],
      [`${row}: memory of ${entry.name}`, pairedRatio(peaksOf(entry), peaksOf(ours))],
    ]),
  );
}
