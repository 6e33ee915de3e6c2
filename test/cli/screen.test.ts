import { describe, expect, it } from 'vitest';
import { rowInterval, trainScreen } from '../../src/cli/screen.ts';
import type { RunInfo, RunResult } from '../../src/training/reporter.ts';

const count = (parameters: number, ranks: number) => ({ parameters, ranks });
const budget = {
  at: 'final',
  target: 1600,
  peak: count(1600, 16),
  final: count(1600, 16),
  average: count(1600, 16),
  heads: 0,
} as const;

const info: RunInfo = {
  model: {
    name: 'tiny',
    path: `${process.cwd()}/models/tiny`,
    file: 'onnx/model.onnx',
    backbone: 'llama',
    opset: 17,
    parameters: 160_000,
  },
  strategy: 'alora',
  task: 'prompt',
  modules: [
    { name: 'model.layers.0.self_attn.q_proj', in: 50, out: 50, rank: 8, costOfOneRank: 100 },
    { name: 'model.layers.0.self_attn.v_proj', in: 50, out: 50, rank: 8, costOfOneRank: 100 },
  ],
  budget,
  data: {
    train: { rows: 40, dropped: 0, tokens: 400, labels: 200 },
    dev: { rows: 10, dropped: 0, tokens: 100, labels: 50 },
  },
  totalSteps: 4,
  stepsPerEpoch: 4,
  startStep: 0,
  batchSize: 10,
  accumulate: 1,
  maxLength: 64,
  learningRate: 1e-3,
  schedule: 'linear',
  warmupSteps: 1,
  evalEvery: 2,
  seed: 0,
  device: 'cpu',
  threads: 1,
  compute: 'float32',
  output: `${process.cwd()}/runs/tiny`,
};

const result: RunResult = {
  strategy: 'alora',
  seed: 0,
  configHash: 'c0ffee',
  command: 'onnx-alora train run.yaml',
  budget,
  ranks: {},
  steps: 4,
  totalSteps: 4,
  stoppedEarly: false,
  bestStep: 4,
  allocations: 1,
  dev: {
    before: { loss: 4, metrics: { tokenAccuracy: 0.1 } },
    best: { loss: 1, metrics: { tokenAccuracy: 0.9 } },
    last: { loss: 1, metrics: { tokenAccuracy: 0.9 } },
  },
  seconds: 65,
  secondsAllocating: 1.5,
  peakMemory: 300e6,
  versions: {},
  machine: { cpu: 'x', cores: 2, memory: 1 },
  hashes: {},
};

function play(
  isTTY: boolean,
  { samples = true, columns = 100, prompt = 'the 3rd of May' } = {},
): { out: string; err: string } {
  const seen = { out: '', err: '' };
  let time = 0;
  const screen = trainScreen(
    { isTTY, columns, write: (text) => (seen.out += text) },
    { isTTY, write: (text) => (seen.err += text) },
    () => (time += 1000),
  );
  screen.onRunStart!(info);
  if (samples) screen.onSample!({ when: 'before', prompt, text: 'Congress' });
  screen.onEval!({
    event: 'eval',
    step: 0,
    split: 'dev',
    loss: 4,
    metrics: { perplexity: 54.6, tokenAccuracy: 0.1 },
  });
  for (let step = 1; step <= 4; step++) {
    const loss = 4.5 - step;
    screen.onStep!({
      event: 'step',
      step,
      epoch: step / 4,
      loss,
      learningRate: 1e-3,
      gradNorm: 2,
      tokens: 100,
      labels: 50,
      ms: 100,
    });
    if (step % 2 === 0)
      screen.onEval!({
        event: 'eval',
        step,
        split: 'dev',
        loss: 4 - step / 2,
        metrics: { tokenAccuracy: 0.5 },
      });
    if (step === 2)
      screen.onAllocation!({
        event: 'allocation',
        step,
        round: 1,
        pruned: [{ module: 'model.layers.0.self_attn.q_proj', index: 3, score: 0.1 }],
        grown: { 'model.layers.0.self_attn.v_proj': 1 },
        ranks: { 'model.layers.0.self_attn.q_proj': 7, 'model.layers.0.self_attn.v_proj': 9 },
        scores: 'scores/round-1.json',
        loss: { before: 3, pruned: 3.01, grown: 3.01 },
        seconds: 1.5,
      });
  }
  screen.onCheckpoint!({ step: 4, kind: 'checkpoint', path: 'checkpoints/step-000004' });
  for (const done of [0, 5, 10]) screen.onAnswers!({ done, prompts: 10 });
  screen.onWarning!('something looks odd');
  if (samples) screen.onSample!({ when: 'after', prompt, text: '1803-05-03' });
  screen.onRunEnd!(result);
  screen.close();
  return seen;
}

describe('trainScreen', () => {
  it('prints plain lines in a pipe', () => {
    const { out, err } = play(false);
    expect(err).toBe('warning: something looks odd\n');
    expect(out).toMatchInlineSnapshot(`
      "onnx-alora · alora
      model      tiny · llama · opset 17 · 160 k frozen
      adapter    alora · 2 modules · rank 8 each
      targets    q_proj v_proj
      budget     1,600 of 1,600 trained scalars, final · 1.0 % of the model
      data       prompt · train 40 rows · dev 10 rows · 200 trained tokens
      optimizer  AdamW · lr 1.00e-3 linear, warm-up 1 · 4 steps of 10 rows, 64 tokens at most
      runtime    cpu · 1 thread · seed 0
      output     runs/tiny

      step     loss ▼      val        lr      ‖g‖    tok/s   rank     params      eta
         0              4.0000                                 16      1,600           tokenAccuracy 0.1000
         1   3.5000              1.00e-3   2.0000    1,000     16      1,600     0:03
         2   2.5000 ▼   3.0000   1.00e-3   2.0000    1,000     16      1,600     0:02  tokenAccuracy 0.5000
            round 1: pruned 1 rank in 1 module · grew 1 in 1 module · loss 3.0000 -> 3.0100 -> 3.0100 · 1.5 s
         3   1.5000 ▼            1.00e-3   2.0000    1,000     16      1,600     0:01
         4   0.5000 ▼   2.0000   1.00e-3   2.0000    1,000     16      1,600     0:00  tokenAccuracy 0.5000
            saved checkpoints/step-000004
            answers 10 prompts of test

      finished  1:05 · step 4 of 4 · peak memory 300 MB
      dev       loss           4.0000 -> 1.0000 (best, step 4)
                tokenAccuracy  0.1000 -> 0.9000
      budget    1,600 of 1,600 trained scalars, final · peak 1,600 · average 1,600
      ranks     moved in 1 allocation, 1.5 s in all
      sample    the 3rd of May
                before  Congress
                after   1803-05-03
      files     runs/tiny/best  the best adapter on dev, PEFT format
                runs/tiny/report.html  curves, ranks, parameters
      next      npx onnx-alora generate --model models/tiny --adapter runs/tiny/best --prompt "the 3rd of May"
                npx onnx-alora merge runs/tiny/best --model models/tiny --out runs/tiny/merged
      "
    `);
  });

  it('suggests the whole prompt, line ends included, or none', () => {
    const windows = process.platform === 'win32';
    expect(play(false, { prompt: 'the 3rd of May:\n' }).out).toContain(
      windows ? 'onnx-alora eval' : "--prompt 'the 3rd of May:\n'\n",
    );
    const { out } = play(false, { prompt: 'a long question '.repeat(30) });
    expect(out).not.toContain('onnx-alora generate');
    expect(out).toContain('onnx-alora eval runs/tiny/run.yaml --adapter runs/tiny/best');
  });

  it('suggests eval in place of generate for a model that writes nothing', () => {
    const { out } = play(false, { samples: false });
    expect(out).toContain('onnx-alora eval runs/tiny/run.yaml --adapter runs/tiny/best --split dev');
    expect(out).not.toContain('generate');
  });

  it.each([40, 60, 79])('wraps no line of the table in %i columns, and keeps loss and metrics', (columns) => {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: colours have no width
    const text = play(true, { columns }).out.replace(/\r\x1b\[2K[^\n\r]*(?=\r)|\r?\x1b\[[\d;]*[mK]/g, '');
    const table = text.slice(text.indexOf('\nstep'), text.indexOf('\nfinished')).split('\n');
    for (const line of table) expect(line.length).toBeLessThanOrEqual(columns);
    expect(table.join('\n')).toMatch(/^ +2 +2\.5000 ▼ +3\.0000.*\n +tokenAccuracy 0\.5000$/m);
    expect(table.join('\n')).toContain('pruned 1 rank in 1 module');
  });

  it('shows the same table from 80 columns on', () => {
    const rows = (columns: number) => play(false, { columns }).out.match(/^ +\d+ .*$/gm);
    expect(rows(80)).toEqual(rows(200));
  });

  it('draws colours and a live line on a terminal only, and leaves no live line behind', () => {
    const { out } = play(true);
    expect(out).toContain('\x1b[2K');
    expect(out).toContain('╭─');
    const lastDrawing = out.lastIndexOf('\r');
    expect(out.slice(lastDrawing).startsWith('\r\x1b[2K')).toBe(true);
    for (const control of ['\x1b', '\r']) expect(play(false).out).not.toContain(control);
  });
});

describe('rowInterval', () => {
  it.each([
    [12, 1],
    [40, 1],
    [60, 2],
    [375, 10],
    [100_000, 5000],
  ])('%i steps print every %i', (steps, interval) => {
    expect(rowInterval(steps)).toBe(interval);
  });
});
