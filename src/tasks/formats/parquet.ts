import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { AloraError } from '../../errors.ts';
import type { Row } from '../task.ts';

/** 64-bit integers and dates as JSON would have them. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value);
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype)
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
  return value;
}

/** Apache Parquet, read one row group at a time; a row's source is its number. */
export async function* parquet(path: string, file: string): AsyncGenerator<Row> {
  try {
    const buffer = await asyncBufferFromFile(path);
    const metadata = await parquetMetadataAsync(buffer);
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      const rows = await parquetReadObjects({ file: buffer, metadata, compressors, rowStart, rowEnd });
      for (const [i, fields] of rows.entries())
        yield {
          source: { file, line: rowStart + i + 1, unit: 'row' },
          fields: plain(fields) as Record<string, unknown>,
        };
      rowStart = rowEnd;
    }
  } catch (cause) {
    if (cause instanceof AloraError) throw cause;
    throw new AloraError(
      'data',
      'DATA_BAD_FILE',
      `the parquet file cannot be read: ${(cause as Error).message}`,
      {
        where: file,
        fix: 'write the file again, or convert it to .jsonl',
        cause,
      },
    );
  }
}
