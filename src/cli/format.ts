/** 1234567 -> `1,234,567`. */
export const thousands = (n: number): string => Math.round(n).toLocaleString('en-US');

/** 1582208 -> `1.58 M`, for counts whose digits do not matter. */
export function rounded(n: number): string {
  if (n < 10_000) return thousands(n);
  if (n < 1e6) return `${(n / 1e3).toPrecision(3)} k`;
  return n < 1e9 ? `${(n / 1e6).toPrecision(3)} M` : `${(n / 1e9).toPrecision(3)} G`;
}

/** Bytes in decimal units: `1.46 GB`. */
export function bytes(n: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  let value = n;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${units[unit]}`;
}

/** Seconds as `0:07`, `12:40` or `3:05:09`. */
export function clock(seconds: number): string {
  const total = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  const two = (n: number) => String(n).padStart(2, '0');
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** Losses, norms and metrics: four digits after the point, or an exponent when that would show nothing. */
export function decimal(x: number): string {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? 'NaN' : x > 0 ? 'inf' : '-inf';
  if (x !== 0 && (Math.abs(x) < 1e-3 || Math.abs(x) >= 1e5)) return x.toExponential(2);
  return x.toFixed(Math.abs(x) >= 1000 ? 1 : Math.abs(x) >= 100 ? 2 : 4);
}

/** Learning rates: `1.00e-4`. */
export const rate = (x: number): string => (x === 0 ? '0' : x.toExponential(2));

/** 0.12345 -> `12.3 %`. */
export const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** `1 row`, `2 rows`. */
export const plural = (n: number, noun: string): string => `${thousands(n)} ${noun}${n === 1 ? '' : 's'}`;
