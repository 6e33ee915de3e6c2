import { readLines } from '../lines.ts';
import { type Row, rowError, type Source } from '../task.ts';

/** JSON Lines: one object a line; blank lines are skipped. */
export async function* jsonl(path: string, file: string): AsyncGenerator<Row> {
  for await (const { text, line } of readLines(path, file)) {
    if (text.trim() === '') continue;
    yield { source: { file, line }, fields: parseObject(text, { file, line }) };
  }
}

/** One JSON object; anything else is a data error at the source. */
export function parseObject(text: string, source: Source): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const started = text.trimStart().slice(0, 60);
    throw rowError(source, `the row is not valid JSON: ${(cause as Error).message}`, {
      got: started,
      fix: 'write one JSON object per line, such as {"text": "..."}',
    });
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>;
  throw rowError(source, 'the row is not a JSON object', {
    got: text.trim().slice(0, 60),
    fix: 'write each row as an object with named fields, such as {"text": "..."}',
  });
}
