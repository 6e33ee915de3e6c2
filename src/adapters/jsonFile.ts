import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AloraError } from '../errors.ts';
import type { ModelConfig } from './module.ts';

/** The JSON object that a file holds; undefined where there is no file. `damaged` words what is there instead. */
function readJsonObject(
  path: string,
  damaged: (got: string, cause?: unknown) => AloraError,
): Record<string, unknown> | undefined {
  if (!existsSync(path)) return undefined;
  let value: unknown;
  try {
    // Editors on Windows begin a file with a byte order mark.
    value = JSON.parse(readFileSync(path, 'utf8').replace(/^\uFEFF/, ''));
  } catch (cause) {
    throw damaged('a file that is not JSON', cause);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw damaged('no JSON object');
  return value as Record<string, unknown>;
}

/** config.json of a model, or another JSON file beside it; {} where there is none. Errors: MODEL_CONFIG_BROKEN. */
export function readModelJson(folder: string, name = 'config.json'): ModelConfig {
  const path = join(folder, name);
  const damaged = (got: string, cause?: unknown) =>
    new AloraError('model', 'MODEL_CONFIG_BROKEN', `${name} of the model is not valid JSON`, {
      where: path,
      got: cause instanceof Error ? cause.message : got,
      fix: 'Download the model again.',
      cause,
    });
  return readJsonObject(path, damaged) ?? {};
}

/** A JSON file of an adapter's folder; undefined where there is none. Errors: MODEL_ADAPTER_DAMAGED. */
export function readAdapterJson(folder: string, name: string): Record<string, unknown> | undefined {
  const path = join(folder, name);
  return readJsonObject(path, (got, cause) => damagedAdapter(path, got, cause));
}

export function damagedAdapter(where: string, got: string, cause?: unknown): AloraError {
  return new AloraError('model', 'MODEL_ADAPTER_DAMAGED', 'The adapter is damaged', {
    where,
    got,
    fix: 'Copy or save it again: adapter_config.json and the tensors must come from one save.',
    ...(cause === undefined ? {} : { cause }),
  });
}
