import type { Evaluation, Step } from '../events.ts';
import { outline, sampled, smooth, smoothingReach } from '../series.ts';
import { colour } from '../theme.ts';
import { type Figure, figureSize, stepAxis } from './figure.ts';

const each = 'each step';
const smoothed = 'smoothed';
const dev = 'dev';

/** Training loss (faint as measured, and smoothed) and dev loss over steps, the best evaluation marked. */
export function lossFigure(
  steps: readonly Step[],
  evals: readonly Evaluation[],
  bestStep?: number,
): Figure | undefined {
  const raw = steps.map(({ step, loss }) => ({ step, value: loss }));
  const devPoints = evals.filter((e) => e.split === 'dev' && Number.isFinite(e.loss));
  const finite = raw.filter((p) => Number.isFinite(p.value));
  if (finite.length === 0 && devPoints.length === 0) return undefined;
  const reach = smoothingReach(raw.length);
  const weights = steps.map((s) => s.labels ?? 1);
  const line = sampled(
    smooth(raw, weights, reach).filter((p) => Number.isFinite(p.value)),
    400,
  );
  const best = devPoints.find((e) => e.step === bestStep);
  const lastStep = Math.max(steps.at(-1)?.step ?? 0, devPoints.at(-1)?.step ?? 0);
  const left = best ? best.step > lastStep * 0.6 : false;
  const series = [...(finite.length > 0 ? [each, smoothed] : []), ...(devPoints.length > 0 ? [dev] : [])];
  const hues: Readonly<Record<string, string>> = {
    [each]: colour('blueFaint'),
    [smoothed]: colour('blue'),
    [dev]: colour('orange'),
  };
  const hue = (name: string) => ({
    color: {
      datum: name,
      type: 'nominal' as const,
      scale: { domain: series, range: series.map((one) => hues[one]!) },
      legend: { symbolType: 'stroke', symbolSize: 260, symbolStrokeWidth: 3 },
    },
  });
  return {
    id: 'loss',
    title: 'Loss',
    caption:
      `Cross-entropy in nats per trained token, on the training batches and on dev. Smoothed: mean over ${2 * reach + 1} steps, weighted by trained tokens.` +
      (best ? ` Best dev loss ${best.loss.toFixed(4)} at step ${best.step}.` : ''),
    draw: (layout) => ({
      ...figureSize(layout),
      height: layout === 'wide' ? 380 : 290,
      encoding: {
        x: stepAxis(lastStep, 8),
        y: { field: 'value', type: 'quantitative', title: null, scale: { zero: false } },
      },
      layer: [
        ...(finite.length > 0
          ? [
              {
                data: { values: [...outline(raw, 800)] },
                mark: { type: 'line' as const, strokeWidth: 1, strokeJoin: 'round' as const },
                encoding: hue(each),
              },
              {
                data: { values: [...line] },
                mark: {
                  type: 'line' as const,
                  strokeWidth: 2.25,
                  strokeJoin: 'round' as const,
                  // One step alone is no line.
                  point: line.length === 1,
                },
                encoding: hue(smoothed),
              },
            ]
          : []),
        ...(devPoints.length > 0
          ? [
              {
                data: { values: devPoints.map(({ step, loss }) => ({ step, value: loss })) },
                mark: {
                  type: 'line' as const,
                  strokeWidth: 1.75,
                  point: { size: devPoints.length > 60 ? 0 : 36, filled: true, opacity: 1 },
                },
                encoding: hue(dev),
              },
            ]
          : []),
        ...(best
          ? [
              {
                data: { values: [{ step: best.step, value: best.loss }] },
                mark: {
                  type: 'point' as const,
                  size: 150,
                  strokeWidth: 2,
                  stroke: colour('ink'),
                  fill: null,
                },
              },
              {
                data: { values: [{ step: best.step, value: best.loss }] },
                mark: {
                  type: 'text' as const,
                  text: `best ${best.loss.toFixed(4)}, step ${best.step}`,
                  align: left ? ('right' as const) : ('left' as const),
                  dx: left ? -4 : 4,
                  dy: -16,
                  fontSize: 12,
                  fontWeight: 'bold' as const,
                  fill: colour('ink'),
                },
              },
            ]
          : []),
      ],
    }),
  };
}
