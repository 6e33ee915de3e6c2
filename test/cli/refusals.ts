import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'vitest';
import { run } from './builtCli.ts';

/** A mistake of a user: what it is, the command, the exit code, the error's code, and what the block has to name. */
export type Refusal = readonly [what: string, args: string, exit: number, code: string, says: string];

/** One block on stderr: a code, and details that start with two spaces, a fix among them. Warnings may stand before it. */
const block =
  /^(?:warning: .+\n)*error\[[A-Z][A-Z0-9_]*\]: .+\n(?: {2}(?:where|got|allowed|did you mean): .+\n)* {2}fix: .+\n(?: {2}also: .+\n)*$/;

let outputs = 0;

/** Refusals are tried beside each other: a run that comes as far as its output folder must not meet another one's. */
function withOutput(args: string): string {
  if (!/^train \S+\.yaml/.test(args) || args.includes('output=')) return args;
  outputs++;
  return `${args} --set output=out-${outputs}`;
}

/** Runs the built command line in a folder and expects nothing but one block that helps. */
export async function expectRefusal(dir: string, [, args, exit, code, says]: Refusal): Promise<void> {
  const { stderr, ...outcome } = await run(dir, withOutput(args).split(' '));
  expect(stderr).toMatch(block);
  expect(stderr).toContain(`error[${code}]`);
  expect(stderr).toContain(says);
  expect(outcome.code).toBe(exit);
}

/** Writes a file below a folder. */
export function put(dir: string, path: string, contents: string | Uint8Array): void {
  mkdirSync(dirname(join(dir, path)), { recursive: true });
  writeFileSync(join(dir, path), contents);
}
