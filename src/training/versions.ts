import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Our own version, from the package.json above this file, in the repository as in an installed package. */
function ownVersion(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const path = join(folder, 'package.json');
    if (existsSync(path)) {
      const { name, version } = JSON.parse(readFileSync(path, 'utf8')) as { name?: string; version?: string };
      if (name === 'onnx-alora') return version ?? 'unknown';
    }
    if (folder === dirname(folder)) return 'unknown';
  }
}

/** Versions that decide numbers. */
export function versions(): Record<string, string> {
  let runtime = 'unknown';
  try {
    runtime = (createRequire(import.meta.url)('onnxruntime-node/package.json') as { version: string })
      .version;
  } catch {
    // The package hides its package.json: the version stays unknown.
  }
  return { 'onnx-alora': ownVersion(), 'onnxruntime-node': runtime, node: process.versions.node };
}
