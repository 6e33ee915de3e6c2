import { randomStream } from '../random.ts';

/** One row of a `prompt` task. */
export interface DateExample {
  /** A date as people write it and a colon: `the 3rd of March, 2024:`. */
  prompt: string;
  /** A space and the date in ISO 8601: ` 2024-03-03`. */
  completion: string;
}

const MONTHS = [
  ...['January', 'February', 'March', 'April', 'May', 'June', 'July'],
  ...['August', 'September', 'October', 'November', 'December'],
];
const WEEKDAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const FIRST_YEAR = 1790;
const YEARS = 260;

interface DateParts {
  year: number;
  /** 3 */
  day: number;
  /** 3rd */
  ordinal: string;
  /** March */
  month: string;
  /** Mar */
  short: string;
  /** Sunday */
  weekday: string;
}

const FORMATS: ((date: DateParts) => string)[] = [
  (d) => `the ${d.ordinal} of ${d.month}, ${d.year}`,
  (d) => `the ${d.ordinal} of ${d.month} ${d.year}`,
  (d) => `${d.month} ${d.day}, ${d.year}`,
  (d) => `${d.month} ${d.ordinal}, ${d.year}`,
  (d) => `${d.day} ${d.month} ${d.year}`,
  (d) => `${d.day} ${d.short}. ${d.year}`,
  (d) => `${d.short}. ${d.day}, ${d.year}`,
  (d) => `${d.weekday}, ${d.month} ${d.day}, ${d.year}`,
  (d) => `${d.weekday} the ${d.ordinal} of ${d.month} ${d.year}`,
  (d) => `in the year ${d.year}, on the ${d.ordinal} of ${d.month}`,
];

function ordinal(day: number): string {
  const teens = day > 10 && day < 14;
  return `${day}${(!teens && ['th', 'st', 'nd', 'rd'][day % 10]) || 'th'}`;
}

/**
 * Date normalisation, the data that `init` writes: `count` examples from a seed, each day of the years 1790 to 2049
 * equally likely, in one of ten ways to write it. The same seed gives the same examples on every machine.
 */
export function dateExamples(count: number, seed: number): DateExample[] {
  const random = randomStream(seed, 'dates');
  const start = Date.UTC(FIRST_YEAR, 0, 1);
  const days = (Date.UTC(FIRST_YEAR + YEARS, 0, 1) - start) / 86_400_000;
  return Array.from({ length: count }, () => {
    const date = new Date(start + random.integer(days) * 86_400_000);
    const month = MONTHS[date.getUTCMonth()]!;
    const day = date.getUTCDate();
    const write = FORMATS[random.integer(FORMATS.length)]!;
    const text = write({
      year: date.getUTCFullYear(),
      day,
      ordinal: ordinal(day),
      month,
      short: month.slice(0, 3),
      weekday: WEEKDAYS[date.getUTCDay()]!,
    });
    return { prompt: `${text}:`, completion: ` ${date.toISOString().slice(0, 10)}` };
  });
}
