import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of the package that this file runs in: the repository, or node_modules/onnx-alora. */
export function packageRoot(): string {
  let dir = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(dir, 'package.json'))) dir = dirname(dir);
  return dir;
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
