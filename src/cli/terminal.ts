import picocolors from 'picocolors';

/** Where the command line writes; a stream of the process, or one that a test reads. */
export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export type Colours = ReturnType<typeof picocolors.createColors>;

/** Colours only on a terminal that has them, and not against NO_COLOR (https://no-color.org). */
export function coloursFor(output: Output): Colours {
  const { NO_COLOR, TERM } = process.env;
  return picocolors.createColors(output.isTTY === true && !NO_COLOR && TERM !== 'dumb');
}

/** Whether a line may be drawn over: only on a terminal. */
export const isLive = (output: Output): boolean => output.isTTY === true && process.env.TERM !== 'dumb';

/** Width of the text: that of the terminal, 100 columns at most, 80 in a pipe. */
export const widthOf = (output: Output): number => Math.max(40, Math.min(output.columns ?? 80, 100));
