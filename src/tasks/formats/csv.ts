import { type CsvError, parse } from 'csv-parse/sync';
import { AloraError } from '../../errors.ts';
import { readText } from '../lines.ts';
import { type Row, rowError } from '../task.ts';

interface ParsedRecord {
  readonly record: Record<string, string>;
  readonly raw: string;
  /** `lines`: the number of the record's last line. */
  readonly info: { readonly lines: number };
}

/** Comma-separated values, RFC 4180, the first line names the fields. All values are strings. */
export async function* csv(path: string, file: string): AsyncGenerator<Row> {
  const text = await readText(path, file);
  let records: ParsedRecord[];
  try {
    records = parse(text, {
      columns: (header: string[]) => uniqueHeader(header, file),
      record_delimiter: '\n',
      relax_quotes: true,
      skip_empty_lines: true,
      info: true,
      raw: true,
    }) as unknown as ParsedRecord[];
  } catch (cause) {
    const { lines, message } = cause as CsvError & { lines?: number };
    if (lines === undefined) throw cause;
    throw rowError({ file, line: lines }, `the row is not valid CSV: ${message}`, {
      fix: 'give each row as many values as the first line has names, and put values with commas, quotes or line ends in quotes',
    });
  }
  for (const { record, raw, info } of records) {
    const inner = raw.replace(/^\n+|\n+$/g, '');
    yield { source: { file, line: info.lines - (inner.split('\n').length - 1) }, fields: record };
  }
}

/** The names of the first line; two of the same name would hide each other. */
export function uniqueHeader(header: readonly string[], file: string): string[] {
  const names = header.map((name) => name.trim());
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice === undefined) return names;
  throw new AloraError('data', 'DATA_BAD_FILE', `two columns are called "${twice}"`, {
    where: `${file}:1`,
    got: names.join(', '),
    fix: 'the first line must name each column once',
  });
}
