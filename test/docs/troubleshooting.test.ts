import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '../..');
const sources = ['src', 'plugins']
  .flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name)),
  )
  .filter((name) => name.endsWith('.ts'))
  .map((name) => readFileSync(join(root, name), 'utf8'))
  .join('\n')
  .replaceAll("\\'", "'")
  .replaceAll(/\$\{weightsFile\}/g, 'adapter_model.safetensors');

const headings = [
  ...readFileSync(join(root, 'docs/troubleshooting.md'), 'utf8').matchAll(/^#+ error\[([A-Z_]+)\]: (.*)$/gm),
].map(([, code, message]) => ({ code: code!, message: message! }));
const described = new Set(headings.map(({ code }) => code));

/** Made of the operating system's codes: STORAGE_ENOSPC stands nowhere as such. */
const composed = /^STORAGE_(E[A-Z]+)$/;

describe('docs/troubleshooting.md', () => {
  it('describes every error that the code can raise', () => {
    const raised = [
      ...sources.matchAll(/AloraError\(\s*'\w+',\s*'([A-Z_]+)'/g),
      ...sources.matchAll(/\bcode: '([A-Z]+_[A-Z_]+)'/g),
    ].map(([, code]) => code!);
    expect(raised.length).toBeGreaterThan(80);
    expect([...new Set(raised)].filter((code) => !described.has(code))).toEqual([]);
  });

  it('describes no error that does not exist, in the words of the error', () => {
    const stale = headings.filter(({ code, message }) => {
      const literals = message.split(/\.{3,}/).map((part) => part.trim().replace(/^['"]|['"]$/g, ''));
      const written = composed.exec(code)?.[1] ?? code;
      return (
        !sources.includes(written) || literals.some((part) => part.length > 3 && !sources.includes(part))
      );
    });
    expect(stale).toEqual([]);
  });
});
