import { AloraError } from '../../errors.ts';
import { readText } from '../lines.ts';
import type { Row } from '../task.ts';
import { jsonl, parseObject } from './jsonl.ts';

/**
 * A JSON array of objects, or an object with one such array in it, or JSON Lines under the wrong name. Elements are
 * parsed one by one, so that a bad one is named by its line.
 */
export async function* json(path: string, file: string): AsyncGenerator<Row> {
  const text = await readText(path, file);
  const first = text.trimStart()[0];
  if (first === '{' && !isWholeJson(text)) return yield* jsonl(path, file);
  const start = text.indexOf('[');
  if (start < 0 || (first !== '[' && first !== '{'))
    throw new AloraError('data', 'DATA_BAD_FILE', 'the file holds no JSON array of rows', {
      where: file,
      got: text.trim().slice(0, 60) || 'an empty file',
      fix: 'write [{...}, {...}], or one object per line in a .jsonl file',
    });
  for (const { element, line } of elements(text, start)) {
    const source = { file, line };
    yield { source, fields: parseObject(element, source) };
  }
}

function isWholeJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** The elements of the array that opens at `start`, as text, with the lines on which they begin. */
function* elements(text: string, start: number): Generator<{ element: string; line: number }> {
  let line = 1;
  for (let i = 0; i <= start; i++) if (text[i] === '\n') line++;
  let depth = 1;
  let from = start + 1;
  let fromLine = line;
  let inString = false;
  for (let i = start + 1; i < text.length; i++) {
    const c = text[i] as string;
    if (c === '\n') line++;
    if (inString) {
      if (c === '\\') i++;
      else if (c === '"') inString = false;
      continue;
    }
    if (from === i && /\s/.test(c)) [from, fromLine] = [i + 1, line];
    if (c === '"') inString = true;
    else if (c === '[' || c === '{') depth++;
    else if (c === ']' || c === '}') depth--;
    if (depth === 0 || (depth === 1 && c === ',')) {
      const element = text.slice(from, i);
      if (element.trim() !== '' || depth === 1) yield { element, line: fromLine };
      [from, fromLine] = [i + 1, line];
    }
    if (depth === 0) return;
  }
  // The array is never closed: what is left says where.
  yield { element: text.slice(from), line: fromLine };
}
