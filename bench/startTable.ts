import { median } from '../src/compare/statistics.ts';
import { inspectModel } from '../src/inference/inspect.ts';
import { models, stepCase } from './cases.ts';
import { runBundled } from './processes.ts';
import { spread } from './spread.ts';
import type { StartParts } from './start.ts';
import { type BenchTable, progress } from './table.ts';
import { grid, megabytes, seconds, withRange } from './text.ts';
import type { TrainTimes } from './trainRun.ts';

/** Steps between two checkpoints: the default of train.checkpointEvery. */
const checkpointEvery = 200;

interface StartResult {
  readonly model: string;
  /** One a turn. */
  readonly starts: readonly StartParts[];
  /** Of a model that writes text. */
  readonly train?: TrainTimes;
  /** Bytes that `inspect` predicts as its peak. */
  readonly predicted?: number;
}

/** Where the time goes before the first step, where the memory goes, and what a step of `train` is beside products. */
export const startTable: BenchTable = {
  about:
    'start-up and memory by part, and what a step of `train` spends outside ONNX Runtime; a minute a model',
  async measure({ models: names, labellings, repeat, ...run }, show) {
    const results: StartResult[] = [];
    for (const model of names) {
      const own = models[model]!.labellings;
      const labelling = own.find((name) => labellings.includes(name)) ?? own[0]!;
      const step = stepCase(model, labelling, run);
      const starts = Array.from({ length: repeat }, (_, turn) => {
        progress(`${model}: start, ${turn + 1} of ${repeat}`);
        return runBundled<StartParts>('start', step);
      });
      if (labelling === 'classification') {
        results.push({ model, starts });
        continue;
      }
      progress(`${model}: train`);
      // Three steps to each checkpoint; the last step writes none.
      const train = runBundled<TrainTimes>('trainRun', { ...step, steps: 3 * Math.max(3, run.steps) + 1 });
      const { folder, targets, batch: batchSize, length: maxLength, compute, recompute } = step;
      const settings = { targets, batchSize, maxLength, compute, recompute };
      const { memory } = await inspectModel(folder, settings);
      results.push({ model, starts, train, predicted: memory.total });
    }
    for (const result of results) show(text(result));
    return { data: results };
  },
};

function text({ model, starts, train, predicted }: StartResult): string {
  const [first] = starts as [StartParts];
  const of = (part: string) => spread(starts.map(({ time }) => time[part]!));
  const names = Object.keys(first.time);
  const before = names.slice(
    0,
    names.findIndex((part) => part.startsWith('first step')),
  );
  const ready = spread(starts.map(({ time }) => before.reduce((sum, part) => sum + time[part]!, 0)));
  const parts = Object.keys(first.memory);
  const middle = (of: (parts: StartParts) => number) => median(starts.map(of));
  const rows = [
    ...parts.map((part) => [part, middle(({ memory }) => memory[part]!)] as const),
    ['step: activations and gradients', middle(({ inTurn }) => inTurn.step)] as const,
    ['evaluation: activations', middle(({ inTurn }) => inTurn.evaluation)] as const,
  ];
  const total = rows.reduce((sum, [, bytes]) => sum + bytes, 0);
  const spared = first.stayOpen ? 0 : Math.min(first.inTurn.step, first.inTurn.evaluation);
  const sessions = before.filter((part) => part.startsWith('session: '));
  return [
    `${models[model]!.title}: start`,
    grid(
      ['', 'seconds'],
      [
        ...before.map((part) => [part, withRange(of(part))]),
        ['ready for the first step', withRange(ready)],
        ...names.slice(before.length).map((part) => [part, withRange(of(part))]),
      ],
    ),
    `sessions of ${megabytes(first.weights)} of weights: ${sessions.map((part) => `${part.slice(9)} ${seconds(of(part).median)}`).join(', ')}`,
    '',
    `${models[model]!.title}: memory`,
    grid(
      ['', 'MB'],
      [
        ...rows.map(([part, bytes]) => [part, (bytes / 1e6).toFixed(0)]),
        [
          first.stayOpen ? 'sum' : 'sum without the smaller of the last two',
          ((total - spared) / 1e6).toFixed(0),
        ],
        ['measured peak', (middle(({ peak }) => peak) / 1e6).toFixed(0)],
      ],
    ),
    first.stayOpen
      ? 'the sessions of step and evaluation stay open'
      : 'step and evaluation take turns: the session of one is closed while the other works',
    ...(train && predicted ? ['', outside(model, train), peaks(train, predicted)] : []),
  ].join('\n');
}

function peaks({ peak }: TrainTimes, predicted: number): string {
  const error = (100 * (predicted / peak - 1)).toFixed(1).replace('-', '\u2212');
  return `its peak memory: ${megabytes(peak)}, and \`inspect\` predicts ${megabytes(predicted)} (${error} %)`;
}

function outside(model: string, { steps, before, after, checkpoints }: TrainTimes): string {
  const ms = (value: number) => `${(1000 * value).toFixed(1)} ms`;
  const [data, optimizer, checkpoint] = [before, after, checkpoints].map((values) => median(values)) as [
    number,
    number,
    number,
  ];
  const all = data + optimizer + checkpoint / checkpointEvery;
  const share = all / (median(steps) + checkpoint / checkpointEvery);
  return [
    `${models[model]!.title}: a step of train, ${seconds(median(steps))}`,
    `outside ONNX Runtime ${ms(all)}, ${(100 * share).toFixed(2)} %: data and inputs ${ms(data)}, gradients, optimizer and metrics ${ms(optimizer)}, a checkpoint of ${ms(checkpoint)} every ${checkpointEvery} steps`,
  ].join('\n');
}
