import { relative } from 'node:path';

/** A path as the user would type it: relative to the working directory where that is shorter. */
export function shortPath(path: string): string {
  const near = relative('', path);
  return near !== '' && near.length < path.length ? near : path;
}
