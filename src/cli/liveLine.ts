import { coloursFor, isLive, type Output } from './terminal.ts';

/** One line on a terminal that is drawn over until it is cleared; nothing elsewhere. */
export interface LiveLine {
  /** Draws the parts side by side, unless the line was drawn a moment ago; called with what makes them. */
  draw(parts: () => readonly string[]): void;
  clear(): void;
}

/** `interval`: milliseconds between two drawings at least. */
export function liveLine(out: Output, now: () => number, interval = 100): LiveLine {
  const colours = coloursFor(out);
  let drawn = false;
  let drawnAt = Number.NEGATIVE_INFINITY;
  return {
    draw(parts) {
      if (!isLive(out) || now() - drawnAt < interval) return;
      drawnAt = now();
      const text = parts().filter(Boolean).join('  ');
      out.write(`\r\x1b[2K${colours.cyan(text.slice(0, (out.columns ?? 80) - 1))}`);
      drawn = true;
    },
    clear() {
      if (drawn) out.write('\r\x1b[2K');
      drawn = false;
    },
  };
}

/** 0.5 -> `━━━━━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌`. */
export function bar(share: number): string {
  const cells = 24;
  const full = Math.round(share * cells);
  return `${'━'.repeat(full)}${'╌'.repeat(cells - full)}`;
}

/** ` 5/10  ━━━╌╌╌`, for things that are counted. */
export const progress = (done: number, total: number): string[] => [
  `${String(done).padStart(String(total).length)}/${total}`,
  bar(done / Math.max(1, total)),
];
