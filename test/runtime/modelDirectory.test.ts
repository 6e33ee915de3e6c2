import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { findModel, generationConfig } from '../../src/runtime/modelDirectory.ts';
import { speechOf } from '../../src/training/speech.ts';

const folder = mkdtempSync(join(tmpdir(), 'onnx-alora-directory-'));
afterAll(() => rmSync(folder, { recursive: true }));
writeFileSync(join(folder, 'model.onnx'), '');

it.each([
  ['config.json', () => findModel(folder)],
  ['generation_config.json', () => generationConfig(folder)],
  ['preprocessor_config.json', () => speechOf(folder, { seq2seq: undefined })],
])('a %s that is no JSON object is refused by name', (name, read) => {
  for (const text of ['{"a": ', '[1]']) {
    writeFileSync(join(folder, name), text);
    expect(read).toThrow(
      expect.objectContaining({
        code: 'MODEL_CONFIG_BROKEN',
        exitCode: 5,
        message: expect.stringContaining(name),
      }),
    );
  }
});
