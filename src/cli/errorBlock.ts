import { AloraError } from '../errors.ts';
import type { Colours } from './terminal.ts';

/** Any thrown value as one of ours: what the operating system refuses is storage, everything else a bug. */
export function asAloraError(thrown: unknown): AloraError | undefined {
  if (thrown instanceof AloraError) return thrown;
  if (!(thrown instanceof Error)) return undefined;
  const { code, path, syscall } = thrown as NodeJS.ErrnoException;
  if (code !== undefined && syscall !== undefined) {
    const reason = storageReasons[code];
    if (reason)
      return new AloraError('storage', `STORAGE_${code}`, reason.what, {
        where: path,
        fix: reason.fix,
        cause: thrown,
      });
  }
  if (
    /bad_alloc|array buffer allocation failed|invalid array buffer length|out of memory/i.test(thrown.message)
  )
    return new AloraError('model', 'OUT_OF_MEMORY', 'there is not enough memory', {
      got: thrown.message,
      fix: 'lower train.batchSize or data.maxLength; `npx onnx-alora inspect` estimates what a model needs',
      cause: thrown,
    });
  return undefined;
}

const storageReasons: Readonly<Record<string, { readonly what: string; readonly fix: string }>> = {
  ENOSPC: {
    what: 'the disk is full',
    fix: 'free space, or choose another output; `--resume` goes on afterwards',
  },
  EDQUOT: { what: 'the disk quota is used up', fix: 'free space, or choose another output' },
  EACCES: { what: 'permission denied', fix: 'choose a place that you may read and write' },
  EPERM: { what: 'operation not permitted', fix: 'choose a place that you may read and write' },
  EROFS: { what: 'the file system is read-only', fix: 'choose another output' },
  ENOENT: { what: 'no such file or directory', fix: 'mend the path' },
  ENOTDIR: { what: 'a part of the path is a file, not a directory', fix: 'mend the path' },
  EISDIR: { what: 'a directory stands where a file was expected', fix: 'mend the path' },
  EEXIST: { what: 'the file exists already', fix: 'choose another output' },
  EMFILE: { what: 'too many files are open', fix: 'raise the limit (ulimit -n)' },
  ELOOP: { what: 'the links of the path lead in a circle', fix: 'mend the path' },
  EIO: { what: 'the disk reported an error', fix: 'check the disk' },
};

/** Exit code of the process for a thrown value: 1 for a bug. */
export const exitCodeOf = (thrown: unknown): number => asAloraError(thrown)?.exitCode ?? 1;

/**
 * The one block on stderr that ends a failed command: `error[CODE]: what` and an indented line for each detail.
 * The stack is added with `verbose` only.
 */
export function errorBlock(thrown: unknown, colours: Colours, verbose: boolean): string {
  const error = asAloraError(thrown);
  const code = error?.code ?? 'INTERNAL';
  const message = thrown instanceof Error ? (error ?? thrown).message : String(thrown);
  const lines = [`${colours.red(colours.bold(`error[${code}]`))}: ${oneLine(message)}`];
  const detail = (name: string, value: string | undefined) => {
    if (value !== undefined && value !== '') lines.push(`  ${colours.dim(`${name}:`)} ${value}`);
  };
  const { where, got, allowed, didYouMean, fix, also = [] } = error?.details ?? {};
  detail('where', where && oneLine(where));
  if (got !== undefined) detail('got', oneLine(typeof got === 'object' ? JSON.stringify(got) : String(got)));
  detail('allowed', typeof allowed === 'string' ? oneLine(allowed) : allowed && shortList(allowed));
  detail('did you mean', didYouMean);
  detail(
    'fix',
    error
      ? fix && oneLine(fix)
      : 'this is a bug: report it with the output of --verbose and `npx onnx-alora env`',
  );
  for (const line of also.slice(0, 8)) detail('also', oneLine(line));
  if (also.length > 8) detail('also', `${also.length - 8} more`);
  if (verbose)
    for (let at: unknown = thrown; at instanceof Error; at = at.cause)
      lines.push(indent(at.stack ?? at.message));
  return `${lines.join('\n')}\n`;
}

const oneLine = (text: string): string => {
  const line = text
    .replace(/\s*[\r\n]+\s*/g, ' ')
    // What a file holds must not steer the terminal.
    .replace(/\p{Cc}+/gu, '\uFFFD')
    .trim();
  return line.length > 400 ? `${line.slice(0, 397)}...` : line;
};

const shortList = (items: readonly string[]): string =>
  items.length > 16 ? `${items.slice(0, 16).join(', ')}, ... (${items.length - 16} more)` : items.join(', ');

const indent = (text: string): string => text.replace(/^/gm, '    ');
