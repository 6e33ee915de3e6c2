import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { AloraError } from '../errors.ts';

const newline = 0x0a;

function notUtf8(file: string, line: number, start: Uint8Array): AloraError {
  const utf16 = (start[0] === 0xff && start[1] === 0xfe) || (start[0] === 0xfe && start[1] === 0xff);
  return new AloraError('data', 'DATA_NOT_UTF8', 'the file is not UTF-8 text', {
    where: `${file}:${line}`,
    got: utf16 ? 'UTF-16' : 'bytes that UTF-8 does not have',
    fix: `save it as UTF-8, for example: iconv -f ${utf16 ? 'UTF-16' : 'ISO-8859-1'} -t UTF-8`,
  });
}

/** A whole text file: without a byte order mark, line ends as \n. `file` is its name in an error. */
export async function readText(path: string, file: string): Promise<string> {
  const bytes = await readFile(path);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes).replace(/\r\n?/g, '\n');
  } catch {
    // Find the line: the first that does not decode by itself (a newline byte is never part of another character).
    let line = 1;
    for (let start = 0; start < bytes.length; line++) {
      const end = bytes.indexOf(newline, start);
      const stop = end < 0 ? bytes.length : end;
      if (decode(bytes.subarray(start, stop)) === undefined) break;
      start = stop + 1;
    }
    throw notUtf8(file, line, bytes.subarray(0, 2));
  }
}

function decode(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

/** The lines of a text file, numbered from 1, without line ends and byte order mark. Memory: one line. */
export async function* readLines(path: string, file: string): AsyncGenerator<{ text: string; line: number }> {
  let line = 0;
  let pending: Buffer[] = [];
  let start: Uint8Array = new Uint8Array();
  const emit = (bytes: Buffer) => {
    line++;
    const text = decode(bytes);
    if (text === undefined) throw notUtf8(file, line, start);
    return { text: (line === 1 ? text.replace(/^\uFEFF/, '') : text).replace(/\r$/, ''), line };
  };
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
    if (start.length === 0) start = chunk.subarray(0, 2);
    let from = 0;
    for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, from)) {
      yield emit(Buffer.concat([...pending, chunk.subarray(from, end)]));
      pending = [];
      from = end + 1;
    }
    if (from < chunk.length) pending.push(chunk.subarray(from));
  }
  if (pending.length > 0) yield emit(Buffer.concat(pending));
}
