import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of the package that `from` lies in: the repository, or node_modules/onnx-alora. */
export function packageRoot(from = dirname(fileURLToPath(import.meta.url))): string {
  if (existsSync(join(from, 'package.json'))) return from;
  const parent = dirname(from);
  if (parent === from) throw new Error('package.json of onnx-alora is missing: install the package again');
  return packageRoot(parent);
}

/** Version of the package. */
export function packageVersion(): string {
  return (JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string })
    .version;
}

/** The embedded model: copied into dist by the build, under fixtures in the repository. */
export function embeddedModel(): string {
  const places = ['dist/models/presidents', 'fixtures/models/presidents'];
  const inRepository = existsSync(join(packageRoot(), 'src'));
  return join(packageRoot(), inRepository ? places[1]! : places[0]!);
}
