import type { Row } from '../task.ts';
import { csv } from './csv.ts';
import { json } from './json.ts';
import { jsonl } from './jsonl.ts';
import { parquet } from './parquet.ts';
import { tsv } from './tsv.ts';

/**
 * Reads the rows of a file in order. `file` is its name in the rows' sources.
 *
 * @throws AloraError of kind data naming file and line of what cannot be read.
 */
export type RowReader = (path: string, file: string) => AsyncIterable<Row>;

/** Row formats by file ending: a new one is one file and one line here. Documents (.txt) are not rows: `files.ts`. */
export const rowReaders: Readonly<Record<string, RowReader>> = {
  '.jsonl': jsonl,
  '.json': json,
  '.csv': csv,
  '.tsv': tsv,
  '.parquet': parquet,
};
