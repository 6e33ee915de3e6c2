import { readLines } from '../lines.ts';
import { type Row, rowError } from '../task.ts';
import { uniqueHeader } from './csv.ts';

/** `"a ""b"""` is a "b"; quotes inside a value are plain characters, as in the files of GLUE. */
const unquote = (value: string) =>
  value.length >= 2 && value.startsWith('"') && value.endsWith('"')
    ? value.slice(1, -1).replaceAll('""', '"')
    : value;

/** Tab-separated values, one row a line, the first line names the fields. All values are strings. */
export async function* tsv(path: string, file: string): AsyncGenerator<Row> {
  let names: string[] | undefined;
  for await (const { text, line } of readLines(path, file)) {
    if (text.trim() === '') continue;
    const values = text.split('\t').map(unquote);
    if (!names) {
      names = uniqueHeader(values, file);
      continue;
    }
    if (values.length !== names.length)
      throw rowError(
        { file, line },
        `the row has ${values.length} values, the first line ${names.length} names`,
        {
          got: text.slice(0, 60),
          fix: 'separate values by single tabs, without tabs or line ends in them',
        },
      );
    yield { source: { file, line }, fields: Object.fromEntries(names.map((name, i) => [name, values[i]])) };
  }
}
