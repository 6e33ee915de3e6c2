import { mean } from '../../compare/statistics.ts';
import type { Run } from '../read.ts';
import type { Variant } from '../readCompare.ts';
import { outline, type Point, sampled, smooth, smoothingReach } from '../series.ts';
import { type Figure, figureSize, stepAxis } from './figure.ts';
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

/** Runs whose curves are drawn: the finished ones, as soon as there is one, so that every mean is over the same runs. */
function drawnRuns({ folders }: Variant): readonly Run[] {
  const finished = folders.filter(({ result }) => result !== undefined);
  return finished.length > 0 ? finished : folders;
}

/** Axis that shows where the curves end up: what is higher in the first tenth of the run goes off the top. */
function lossAxis(points: readonly Point[]) {
  const last = lastOf(points);
  const late = points.filter(({ step }) => step >= last / 10).map(({ value }) => value);
  const [low, high] = [Math.min(...points.map(({ value }) => value)), Math.max(...late)];
  const margin = Math.max((high - low) * 0.08, 1e-6);
  return {
    field: 'value',
    type: 'quantitative' as const,
    title: null,
    scale: { domain: [low - margin, high + margin], nice: false },
  };
}

const lastOf = (points: readonly Point[]): number => Math.max(...points.map(({ step }) => step));

const named = (method: string, points: readonly Point[]): Seen[] =>
  points.map(({ step, value }) => ({ step, value, method }));

/** For the caption, since the axis of `lossAxis` leaves something out. */
const cut = 'The first steps may lie above what is shown.';

/** Training loss of every method, the mean over its seeds, faint as measured and smoothed; `where` says at which point. */
export function trainingCurves(
  variants: readonly Variant[],
  labels: readonly string[],
  id: string,
  where: string,
): Figure | undefined {
  const means = variants.map((variant) => ({
    label: variant.label,
    points: meanByStep(
      drawnRuns(variant).map(({ steps }) => steps.map(({ step, loss }) => ({ step, value: loss }))),
    ),
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
    caption: `Cross-entropy in nats per trained token, mean over the seeds: faint as measured, and smoothed over ${2 * reach + 1} steps. ${cut}`,
    draw: (layout) => ({
      ...figureSize(layout, 'half'),
      height: 300,
      encoding: {
        x: stepAxis(lastOf(lines)),
        y: lossAxis(lines),
        ...methodScales(labels),
      },
      layer: [
        { data: { values: raw }, mark: { type: 'line', strokeWidth: 1, opacity: 0.28, clip: true } },
        { data: { values: lines }, mark: { type: 'line', strokeWidth: 2, clip: true } },
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
  const seeds = variants.flatMap((variant) =>
    drawnRuns(variant).map(({ evals }, i) => ({
      label: variant.label,
      seed: `${variant.label} ${i}`,
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
    caption: `Cross-entropy in nats per trained token over the whole dev set: a faint line a seed, and their mean. ${cut}`,
    draw: (layout) => ({
      ...figureSize(layout, 'half'),
      height: 300,
      encoding: {
        x: stepAxis(lastOf(each)),
        y: lossAxis(means),
        ...methodScales(labels),
      },
      layer: [
        {
          data: { values: each },
          mark: { type: 'line', strokeWidth: 1, opacity: 0.28, clip: true },
          encoding: { detail: { field: 'seed', type: 'nominal' } },
        },
        { data: { values: means }, mark: { type: 'line', strokeWidth: 2, point: { size: 24 }, clip: true } },
      ],
    }),
  };
}
