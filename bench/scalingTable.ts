import { type StepCase, shape, writtenOnce } from './cases.ts';
import { gpt2Config, writeGpt2 } from './models/gpt2.ts';
import { type Measured, runOurs } from './processes.ts';
import { scalingFigure } from './scalingFigure.ts';
import { type Spread, spread } from './spread.ts';
import { type BenchTable, progress } from './table.ts';
import { grid, megabytes } from './text.ts';

/** A GPT-2 of width 384 with 8,192 tokens: small enough for a process at each point. */
const config = { ...gpt2Config, vocab_size: 8192, n_embd: 384, n_head: 6 };

/** Kinds of modules, adapted one after the other in all layers. */
const kinds = ['c_attn', 'attn.c_proj', 'c_fc', 'mlp.c_proj'];

interface Place {
  readonly batch: number;
  readonly length: number;
  readonly rank: number;
  readonly kinds: number;
  readonly layers: number;
}

/** Where all axes cross. */
const base: Place = { batch: shape.batch, length: shape.length, rank: shape.rank, kinds: 4, layers: 6 };

const axes: Readonly<Record<string, readonly Partial<Place>[]>> = {
  batch: [1, 2, 4, 8, 16].map((batch) => ({ batch })),
  'sequence length': [32, 64, 128, 256, 512].map((length) => ({ length })),
  rank: [1, 8, 16, 32, 64].map((rank) => ({ rank })),
  'adapted modules': [1, 2, 3, 4].map((kinds) => ({ kinds })),
  layers: [2, 4, 6, 8, 12].map((layers) => ({ layers })),
};

export interface ScalingPoint {
  readonly axis: string;
  /** On the axis. */
  readonly at: number;
  /** Of a step. */
  readonly seconds: Spread;
  /** Bytes. */
  readonly peak: number;
}

/** What a step of ours costs as one size grows and the others stay. */
export const scalingTable: BenchTable = {
  about:
    'cost of our step against batch, length, rank, adapted modules and layers, on a small GPT-2; about a minute',
  measure({ repeat, steps, threads, compute }, show) {
    const places = Object.entries(axes).flatMap(([axis, changes]) =>
      changes.map((change) => ({ axis, at: onAxis(change), key: JSON.stringify({ ...base, ...change }) })),
    );
    // By turns over all places, so that other work on the machine does not meet one of them alone.
    const runs = new Map<string, Measured[]>(places.map(({ key }) => [key, []]));
    for (let turn = 0; turn < repeat; turn++)
      for (const [key, own] of runs) {
        progress(`scaling: ${key}, ${turn + 1} of ${repeat}`);
        own.push(measure(JSON.parse(key) as Place, { steps, threads, compute }));
      }
    const points = places.map(
      ({ axis, at, key }): ScalingPoint => ({
        axis,
        at,
        seconds: spread(runs.get(key)!.flatMap(({ steps }) => steps)),
        peak: Math.max(...runs.get(key)!.map(({ peak }) => peak)),
      }),
    );
    show(text(points));
    return { data: { base, points }, figures: [scalingFigure(points, Object.keys(axes))] };
  },
};

function measure(place: Place, run: Pick<StepCase, 'steps' | 'threads' | 'compute'>): Measured {
  const { batch, length, rank, layers } = place;
  const folder = writtenOnce(`scaling-${layers}`, (path) => writeGpt2(path, { ...config, n_layer: layers }));
  return runOurs({
    folder,
    vocabulary: config.vocab_size,
    targets: kinds.slice(0, place.kinds),
    modulesToSave: [],
    labelling: 'all',
    batch,
    length,
    rank,
    answer: shape.answer,
    ...run,
  });
}

/** The number that an axis shows: modules are counted one by one. */
function onAxis(change: Partial<Place>): number {
  const [value] = Object.values(change) as [number];
  return change.kinds === undefined ? value : value * base.layers;
}

const ms = (seconds: number) => (1000 * seconds).toFixed(0);

function text(points: readonly ScalingPoint[]): string {
  const rows = Object.keys(axes).flatMap((axis) => {
    const own = points.filter((point) => point.axis === axis);
    return own.map(({ at, seconds, peak }, i) => [
      i === 0 ? axis : '',
      at,
      `${ms(seconds.median)} ms (${ms(seconds.low)} .. ${ms(seconds.high)})`,
      (seconds.median / own[0]!.seconds.median).toFixed(2),
      megabytes(peak),
    ]);
  });
  const modules = base.kinds * base.layers;
  return [
    `Scaling: GPT-2 shape of width ${config.n_embd}; unless it is what grows, batch ${base.batch}, length ${base.length}, rank ${base.rank}, ${modules} modules, ${base.layers} layers, all positions labelled`,
    grid(['', '', 'step', 'to the first', 'peak memory'], rows),
  ].join('\n');
}
