import { existsSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { displayPath } from './files.ts';
import {
  type Dropped,
  type Example,
  type Row,
  rowError,
  type Speech,
  stringField,
  type Task,
} from './task.ts';
import type { Tokenizer } from './tokenizer.ts';
import { readWav } from './wav.ts';

/**
 * The text as transformers' tokenizer gives it, language, task and end tokens included, without the token that the
 * decoder starts with; all of it is learnt. Sound is read and turned into features when a batch is made of the row.
 */
function encodeSpeech(
  row: Row,
  { tokenizer, speech, maxLength }: { tokenizer: Tokenizer; speech: Speech; maxLength: number },
): Example | Dropped {
  const audio = stringField(row, 'audio');
  const text = stringField(row, 'text');
  const path = resolve(dirname(row.source.file), audio);
  if (!existsSync(path))
    throw rowError(row.source, 'the recording of the row does not exist', {
      got: displayPath(path),
      fix: 'correct the path; it is relative to the folder of the data file',
    });
  if (text.trim() === '') return { dropped: 'empty text' };
  const { ids } = tokenizer.encode(text);
  const targets = ids[0] === speech.startId ? ids.slice(1) : ids;
  if (targets.length > maxLength) return { dropped: 'the text is longer than maxLength' };
  return {
    kind: 'token',
    ids: [speech.startId, ...targets.slice(0, -1)],
    targets,
    source: row.source,
    completion: text,
    references: [text],
    features: () => ({ input_features: speech.features(readWav(path, speech.samplingRate)) }),
  };
}

/** Task `transcription`: fields `audio`, the path of a .wav file, and `text`; for models such as Whisper. */
export const transcription: Task = {
  name: 'transcription',
  fields: ['audio', 'text'],
  hears: true,
  prepare: ({ tokenizer, maxLength, speech }) => ({
    kind: 'token',
    metrics: ['perplexity', 'tokenAccuracy'],
    textMetrics: ['wordErrorRate'],
    // Only models that hear are given this task.
    encode: (row) => encodeSpeech(row, { tokenizer, maxLength, speech: speech! }),
  }),
};
