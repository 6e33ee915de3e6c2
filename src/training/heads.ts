import { AloraError } from '../errors.ts';
import type { ModelDirectory } from '../runtime/modelDirectory.ts';

/** Classes of transformers whose outputs no task of the run file can be learnt from, and what they are. */
const untrained: readonly (readonly [RegExp, string])[] = [
  [/ForMaskedLM$/, 'masked tokens'],
  [/ForMultipleChoice$|ForNextSentencePrediction$|ForPreTraining$/, 'something else than classes or text'],
  [/ForImageClassification|ForObjectDetection|ForSemanticSegmentation|ForDepthEstimation/, 'from images'],
  [/ForAudioClassification|ForCTC|ForAudioFrameClassification|ForXVector/, 'from sound'],
];

/** Refuses a head that no task trains, by the class that config.json names. Errors: MODEL_HEAD (model). */
export function requireTrainableHead({ folder, config }: Pick<ModelDirectory, 'folder' | 'config'>): void {
  const [architecture] = Array.isArray(config.architectures) ? (config.architectures as string[]) : [];
  const found = untrained.find(([pattern]) => pattern.test(architecture ?? ''));
  if (!found) return;
  throw new AloraError('model', 'MODEL_HEAD', `The model predicts ${found[1]}, which no task trains`, {
    where: folder,
    got: architecture,
    allowed:
      'a language model, a text encoder without a head, or one that classifies texts or tokens or finds spans',
    fix: found[1].startsWith('from')
      ? 'Use a model of text: no task of the run file reads such data.'
      : 'Export the encoder alone (last_hidden_state); a new classifier is then trained on it.',
  });
}
