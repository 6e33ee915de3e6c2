import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { generateFrom } from '../../src/inference/generate.ts';
import { loadModel } from '../../src/inference/loadModel.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';
import { scoreAdapter } from '../../src/training/score.ts';
import { type SessionFaults, watchSessions } from '../runtime/openSessions.ts';
import { tinyRun } from '../training/runs.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-sessions-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const model = 'fixtures/models/llama';
const adapter = 'fixtures/peft/adapters/llama-lora';
/** An encoder-decoder: two files. */
const t5 = join(scratch, 't5');
cpSync('fixtures/backbones/t5', t5, { recursive: true });
for (const file of ['tokenizer.json', 'tokenizer_config.json'])
  cpSync(join('fixtures/models/roberta', file), join(t5, file));
const config = tinyRun(join(scratch, 'unused'));
const asked = tinyRun(join(scratch, 'unused'), {
  data: { task: 'prompt', columns: { prompt: 'text', completion: 'text' }, maxRows: { dev: 2 } },
});

describe('an error leaves no session open', () => {
  it.each<[string, SessionFaults, () => Promise<unknown>]>([
    ['of generate, when a run fails', { runs: true }, () => generateFrom({ model, adapter, prompt: 'a' })],
    [
      'of generate, when one half of an encoder-decoder cannot be opened',
      { opening: 2 },
      () => generateFrom({ model: t5, prompt: 'a' }),
    ],
    [
      'of loadModel, when one half of an encoder-decoder cannot be opened',
      { opening: 2 },
      () => loadModel(t5),
    ],
    ['of eval, when a run fails', { runs: true }, () => evaluateRun(config, { adapter })],
    ['of eval, when the second file cannot be opened', { opening: 2 }, () => evaluateRun(asked, {})],
    [
      'of score, when the scorer fails',
      {},
      () =>
        scoreAdapter(config, async (host) => Promise.reject(await host.losses([{ on: 'all', except: [] }])), {
          adapter,
        }),
    ],
    [
      'of merge, when a run fails',
      { runs: true },
      () => mergeModel({ model, adapter, out: join(scratch, 'merged') }),
    ],
  ])('%s', async (_, faults, act) => {
    const watch = watchSessions(faults);
    try {
      await expect(act()).rejects.toBeDefined();
      expect(watch.opened).toBeGreaterThan(0);
      expect(watch.open).toBe(0);
    } finally {
      watch.stop();
    }
  });
});
