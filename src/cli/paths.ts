import { relative } from 'node:path';

/** A word of a command line that the user may copy: in quotes where a shell would take it apart. */
export function shellWord(text: string): string {
  if (/^[\w@%+=:,./~-]+$/.test(text)) return text;
  if (process.platform === 'win32' || !/["$`\\!\n]/.test(text)) return `"${text}"`;
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A path as the user would type it: relative to the working directory where that is shorter. */
export function shortPath(path: string): string {
  const near = relative('', path);
  return near !== '' && near.length < path.length ? near : path;
}
