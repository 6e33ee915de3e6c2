import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { weightsFile } from '../adapters/peft.ts';
import { isModulePath } from '../config/resolve.ts';
import type { RunConfig } from '../config/schema.ts';
import { configHash } from '../config/write.ts';
import { localModel } from '../runtime/hub.ts';
import { findModel } from '../runtime/modelDirectory.ts';
import { hashFile, resolveDataFiles } from '../tasks/files.ts';
import { modelHash } from '../training/modelHash.ts';

/**
 * Identity of a run: sha256 of its resolved configuration (seed and output folder aside) and of the contents of all
 * files that it reads, model, data, starting adapter and third-party strategy. Two runs with the same fingerprint and seed
 * give the same numbers; wherever the project lies, the fingerprint is the same.
 */
export type Fingerprint = (config: RunConfig) => Promise<string>;

/** A fingerprint that reads each file once, however many runs share it. */
export function fingerprinter(): Fingerprint {
  const hashes = new Map<string, Promise<string>>();
  const once = (path: string, hash: () => Promise<string>): Promise<string> => {
    const known = hashes.get(path) ?? hash();
    hashes.set(path, known);
    return known;
  };
  return async (config) => {
    const { model, data, adapter } = config;
    const directory = findModel(await localModel(model.path, model.file), { file: model.file });
    const files: string[] = [];
    for (const split of [data.train, data.dev, data.test])
      if (typeof split === 'string') files.push(...(await resolveDataFiles(split)).paths);
    const start = adapter.initFrom && join(adapter.initFrom, weightsFile);
    for (const path of [start, isModulePath(adapter.strategy) ? adapter.strategy : undefined])
      if (path !== undefined && existsSync(path)) files.push(path);
    const hash = createHash('sha256').update(configHash({ ...config, train: { ...config.train, seed: 0 } }));
    hash.update(await once(directory.file, () => modelHash(directory)));
    for (const file of files) hash.update(await once(file, () => hashFile(file)));
    return hash.digest('hex');
  };
}
