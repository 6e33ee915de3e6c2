/** 1234567 -> `1,234,567`. */
export function integer(n: number): string {
  return String(Math.round(n)).replace(/\B(?=(\d{3})+(?!\d))/g, ',');
}

/** A loss or score: four decimals, fewer from 1000 on, more digits below 0.001; a dash for what is not a number. */
export function decimal(n: number | null | undefined): string {
  if (n === null || n === undefined || !Number.isFinite(n)) return '\u2013';
  if (n !== 0 && Math.abs(n) < 1e-3) return n.toExponential(2).replace(/^-/, '\u2212');
  if (Math.abs(n) >= 1000) return amount(Math.round(n * 10) / 10).replace('-', '\u2212');
  return n.toFixed(4).replace('-', '\u2212');
}

/** A whole number with separators, else one decimal: ranks and parameters may be averages. */
export function amount(n: number): string {
  return Number.isInteger(n)
    ? integer(n)
    : `${integer(Math.trunc(n))}.${Math.abs(n % 1)
        .toFixed(1)
        .slice(2)}`;
}

/** `+0.0123`, with a real minus sign. */
export function change(n: number): string {
  return n > 0 ? `+${decimal(n)}` : decimal(n);
}

/** 75.3 -> `1 min 15 s`. */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  if (h > 0) return `${h} h ${m} min`;
  return m > 0 ? `${m} min ${s} s` : `${s} s`;
}

/** Bytes in decimal units. */
export function bytes(n: number): string {
  return n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : `${Math.round(n / 1e6)} MB`;
}
