import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { build } from 'tsup';

const cache = resolve('node_modules/.cache/onnx-alora');

let built: Promise<string> | undefined;

/** Path of the command line, built from the sources as they are; built once for all test files. */
export function builtCli(): Promise<string> {
  // Two builds of one process would write to the same folder.
  built ??= findOrBuild();
  return built;
}

async function findOrBuild(): Promise<string> {
  const out = join(cache, fingerprint(['src', 'plugins', 'tsup.config.ts', 'package.json']));
  const cli = join(out, 'cli.js');
  if (existsSync(cli)) return cli;
  const unfinished = `${out}.${process.pid}.tmp`;
  mkdirSync(cache, { recursive: true });
  await build({ config: 'tsup.config.ts', outDir: unfinished, dts: false, silent: true });
  try {
    renameSync(unfinished, out);
  } catch {
    // Another test file was faster.
    rmSync(unfinished, { recursive: true });
  }
  return cli;
}

function fingerprint(paths: readonly string[]): string {
  const hash = createHash('sha256');
  for (const path of paths) {
    const names = path.includes('.') ? [''] : readdirSync(path, { recursive: true, encoding: 'utf8' }).sort();
    for (const name of names.filter((n) => /\.(ts|json)$/.test(path + n)))
      hash.update(name).update(readFileSync(join(path, name)));
  }
  return hash.digest('hex').slice(0, 16);
}

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line in a folder, as from a script: no terminal, no colours. */
export async function run(
  cwd: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<Outcome> {
  const cli = await builtCli();
  return new Promise((done) => {
    const child = spawn(process.execPath, [cli, ...args], {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
    child.on('close', (code) => done({ code, stdout, stderr }));
  });
}
