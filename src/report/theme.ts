import type { Config } from 'vega-lite';

/**
 * Colours by role, light and dark. Figures are drawn in the light colours, so that an SVG file stands on its own; the
 * page turns them dark with one rule for each colour (`[fill="#..."] { fill: var(--role) }`), so every light colour
 * here is used for one role only. Series hues keep apart under the common colour blindnesses; ramps change lightness.
 */
export const roles = {
  surface: ['#fffffe', '#15181e'],
  ink: ['#1b2230', '#e8ebf1'],
  muted: ['#5c6675', '#9aa4b4'],
  line: ['#b9c1cd', '#47505f'],
  grid: ['#e6e9ef', '#262c36'],
  blue: ['#1f62b4', '#6fb0ff'],
  blueFaint: ['#bcd3ee', '#2f4c72'],
  orange: ['#c4500f', '#ff9a5c'],
  teal: ['#0f7f6c', '#4fd1b8'],
  violet: ['#7a4bb8', '#bd97f2'],
  rose: ['#b0245c', '#ff8fb5'],
  gold: ['#86690a', '#e3c04f'],
  onStrong: ['#fdfefd', '#0d1117'],
  onWeak: ['#1c2331', '#e7eaf0'],
} as const satisfies Record<string, readonly [light: string, dark: string]>;

/** Few to many. */
export const ramp = [
  ['#eff4fa', '#1b2431'],
  ['#d9e6f4', '#1f3350'],
  ['#bbd3ec', '#234672'],
  ['#93bae0', '#2c5c97'],
  ['#679dd1', '#3f7abf'],
  ['#427fbd', '#5f9ade'],
  ['#2763a3', '#86b8f2'],
  ['#174a83', '#b1d3fb'],
  ['#0d3361', '#dcebff'],
] as const;

/** Lost many, lost few, the same, won few, won many. */
export const divergingRamp = [
  ['#b4480d', '#ffa26b'],
  ['#dd8350', '#c4662f'],
  ['#f3c7ab', '#6e4026'],
  ['#f1f2f4', '#232932'],
  ['#c5dcea', '#234a66'],
  ['#6fa9d2', '#3583bd'],
  ['#1d6aa6', '#82c3f5'],
] as const;

/** A light colour of a role. */
export const colour = (role: keyof typeof roles): string => roles[role][0];

export const fonts =
  '"Helvetica Neue", "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif';
export const monospace = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace';

const axisText = { labelColor: colour('muted'), titleColor: colour('muted') };

/** How every figure looks. */
export const figureConfig: Config = {
  background: colour('surface'),
  font: fonts,
  padding: 4,
  view: { stroke: null },
  axis: {
    ...axisText,
    labelFontSize: 11,
    titleFontSize: 11,
    titleFontWeight: 'normal',
    domainColor: colour('line'),
    tickColor: colour('line'),
    gridColor: colour('grid'),
    labelPadding: 5,
    titlePadding: 8,
    tickSize: 4,
  },
  axisY: {
    domain: false,
    ticks: false,
    tickCount: 5,
    titleAlign: 'left',
    titleAngle: 0,
    titleX: 0,
    titleY: -10,
    titleBaseline: 'bottom',
  },
  axisX: { grid: false, tickCount: 6, labelFlush: true },
  legend: {
    orient: 'top',
    labelColor: colour('ink'),
    titleColor: colour('muted'),
    labelFontSize: 12,
    symbolStrokeWidth: 2.5,
    title: null,
    offset: 14,
    columnPadding: 16,
  },
  text: { color: colour('ink'), fontSize: 11 },
  aria: false,
};

/** The page's custom properties for one scheme, and the rules that apply them to inlined figures. */
export function schemeVariables(scheme: 'light' | 'dark'): string {
  const pick = (pair: readonly [string, string]) => pair[scheme === 'light' ? 0 : 1];
  const named = Object.entries(roles).map(([role, pair]) => `--${role}:${pick(pair)}`);
  const ramps = [
    ...ramp.map((pair, i) => `--r${i}:${pick(pair)}`),
    ...divergingRamp.map((pair, i) => `--d${i}:${pick(pair)}`),
  ];
  return [...named, ...ramps].join(';');
}

export function figureRules(): string {
  const all: [string, string][] = [
    ...Object.entries(roles).map(([role, pair]): [string, string] => [role, pair[0]]),
    ...ramp.map((pair, i): [string, string] => [`r${i}`, pair[0]]),
    ...divergingRamp.map((pair, i): [string, string] => [`d${i}`, pair[0]]),
  ];
  return all
    .map(
      ([name, hex]) => `svg [fill="${hex}"]{fill:var(--${name})}svg [stroke="${hex}"]{stroke:var(--${name})}`,
    )
    .join('');
}
