import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readModelJson } from '../adapters/jsonFile.ts';
import { AloraError } from '../errors.ts';
import type { Backbone } from '../runtime/backbone.ts';
import { logMel } from '../tasks/logMel.ts';
import type { Speech } from '../tasks/task.ts';

const file = 'preprocessor_config.json';

/** Whether a model reads sound. */
export const hears = ({ model }: Pick<Backbone, 'model'>): boolean =>
  model.graph.findInput('input_features') !== undefined;

/** How a model wants sound, from preprocessor_config.json. Errors: MODEL_PREPROCESSOR, MODEL_CONFIG_BROKEN (model). */
export function speechOf(folder: string, { seq2seq }: Pick<Backbone, 'seq2seq'>): Speech {
  const path = join(folder, file);
  const config = readModelJson(folder, file);
  const number = (key: string, otherwise: number) =>
    typeof config[key] === 'number' ? (config[key] as number) : otherwise;
  const kind = config.feature_extractor_type;
  if (kind !== 'WhisperFeatureExtractor')
    throw new AloraError('model', 'MODEL_PREPROCESSOR', 'How the model wants sound is not known', {
      where: path,
      got: kind ?? (existsSync(path) ? 'no feature_extractor_type' : 'no such file'),
      allowed: 'feature_extractor_type: WhisperFeatureExtractor',
      fix: `Put the model's ${file} beside its config.json.`,
    });
  const samplingRate = number('sampling_rate', 16000);
  return {
    samplingRate,
    startId: seq2seq!.begins[0]!,
    features: logMel({
      bands: number('feature_size', 80),
      samplingRate,
      window: number('n_fft', 400),
      hop: number('hop_length', 160),
      samples: number('n_samples', 30 * samplingRate),
    }),
  };
}
