import { colour } from '../theme.ts';

const hues = ['blue', 'orange', 'teal', 'violet', 'rose', 'gold'] as const;
const dashes = [
  [1, 0],
  [6, 3],
  [2, 2],
  [8, 2, 2, 2],
] as const;

/** One hue a method in all figures; beyond six, the hues again with another dash. */
export function methodScales(labels: readonly string[]) {
  const legend = {
    symbolType: 'stroke' as const,
    symbolSize: 260,
    symbolStrokeWidth: 3,
    symbolOpacity: 1,
    labelLimit: 300,
  };
  return {
    color: {
      field: 'method',
      type: 'nominal' as const,
      scale: { domain: [...labels], range: labels.map((_, i) => colour(hues[i % hues.length]!)) },
      legend,
    },
    ...(labels.length > hues.length
      ? {
          strokeDash: {
            field: 'method',
            type: 'nominal' as const,
            scale: {
              domain: [...labels],
              range: labels.map((_, i) => [...dashes[Math.floor(i / hues.length) % dashes.length]!]),
            },
            legend,
          },
        }
      : {}),
  };
}
