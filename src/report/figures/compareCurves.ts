import { mean } from '../../compare/statistics.ts';
import type { Variant } from '../readCompare.ts';
import { outline, type Point, sampled, smooth, smoothingReach } from '../series.ts';
import { type Figure, figureSize } from './figure.ts';
import { methodScales } from './methods.ts';

interface Seen extends Point {
  readonly method: string;
}

/** Mean over the runs that have a value at each step. */
function meanByStep(series: readonly (readonly Point[])[]): Point[] {
  const values = new Map<number, number[]>();
  for (const points of series)
    for (const { step, value } of points)
      if (Number.isFinite(value)) values.set(step, [...(values.get(step) ?? []), value]);
  return [...values].sort(([a], [b]) => a - b).map(([step, seeds]) => ({ step, value: mean(seeds) }));
}

const named = (method: string, points: readonly Point[]): Seen[] =>
  points.map(({ step, value }) => ({ step, value, method }));

/** Training loss of every method, the mean over its seeds, faint as measured and smoothed; `where` says at which point. */
export function trainingCurves(
  variants: readonly Variant[],
  labels: readonly string[],
  id: string,
  where: string,
): Figure | undefined {
  const means = variants.map(({ label, folders }) => ({
    label,
    points: meanByStep(folders.map(({ steps }) => steps.map(({ step, loss }) => ({ step, value: loss })))),
  }));
  const longest = Math.max(0, ...means.map(({ points }) => points.length));
  if (longest === 0) return undefined;
  const reach = smoothingReach(longest);
  const raw = means.flatMap(({ label, points }) => named(label, outline(points, 400)));
  const lines = means.flatMap(({ label, points }) =>
    named(
      label,
      sampled(
        smooth(
          points,
          points.map(() => 1),
          reach,
        ),
        300,
      ),
    ),
  );
  return {
    id,
    title: `Training loss${where}`,
    caption: `Cross-entropy in nats per trained token, mean over the seeds: faint as measured, and smoothed over ${2 * reach + 1} steps.`,
    draw: (layout) => ({
      ...figureSize(layout, 'half'),
      height: 300,
      encoding: {
        x: { field: 'step', type: 'quantitative', title: 'step', axis: { tickCount: 5 } },
        y: { field: 'value', type: 'quantitative', title: null, scale: { zero: false } },
        ...methodScales(labels),
      },
      layer: [
        { data: { values: raw }, mark: { type: 'line', strokeWidth: 1, opacity: 0.28 } },
        { data: { values: lines }, mark: { type: 'line', strokeWidth: 2 } },
      ],
    }),
  };
}

/** Dev loss of every method: one faint line a seed, and the mean over the seeds. */
export function devCurves(
  variants: readonly Variant[],
  labels: readonly string[],
  id: string,
  where: string,
): Figure | undefined {
  const seeds = variants.flatMap(({ label, folders }) =>
    folders.map(({ evals }, i) => ({
      label,
      seed: `${label} ${i}`,
      points: evals
        .filter(({ split, loss }) => split === 'dev' && Number.isFinite(loss))
        .map(({ step, loss }) => ({ step, value: loss })),
    })),
  );
  if (seeds.every(({ points }) => points.length === 0)) return undefined;
  const each = seeds.flatMap(({ label, seed, points }) =>
    named(label, points).map((point) => ({ ...point, seed })),
  );
  const means = labels.flatMap((label) =>
    named(label, meanByStep(seeds.filter((one) => one.label === label).map(({ points }) => points))),
  );
  return {
    id,
    title: `Dev loss${where}`,
    caption:
      'Cross-entropy in nats per trained token over the whole dev set: a faint line a seed, and their mean.',
    draw: (layout) => ({
      ...figureSize(layout, 'half'),
      height: 300,
      encoding: {
        x: { field: 'step', type: 'quantitative', title: 'step', axis: { tickCount: 5 } },
        y: { field: 'value', type: 'quantitative', title: null, scale: { zero: false } },
        ...methodScales(labels),
      },
      layer: [
        {
          data: { values: each },
          mark: { type: 'line', strokeWidth: 1, opacity: 0.28 },
          encoding: { detail: { field: 'seed', type: 'nominal' } },
        },
        { data: { values: means }, mark: { type: 'line', strokeWidth: 2, point: { size: 24 } } },
      ],
    }),
  };
}
