import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { makeRun } from '../../fixtures/report/makeRun.ts';
import { AloraError } from '../../src/errors.ts';
import { writeReport } from '../../src/report/index.ts';

const root = mkdtempSync(join(tmpdir(), 'report-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const folder = (name: string) => join(root, name);
const read = (...parts: string[]) => readFileSync(join(root, ...parts), 'utf8');
const refusal = async (dir: string): Promise<AloraError> => {
  const error = await writeReport(dir).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(AloraError);
  return error as AloraError;
};
/** The text a reader sees, tags and style left out. */
const visible = (page: string) =>
  page
    .replace(/<style>[\s\S]*?<\/style>/, '')
    .replace(/<svg[\s\S]*?<\/svg>/g, '')
    .replace(/<[^>]+>/g, ' ')
    .replace(/\s+/g, ' ');

describe('a finished run of ALoRA', () => {
  const warnings = vi.spyOn(console, 'warn');
  let svgs: string[];
  let page: string;
  beforeAll(async () => {
    makeRun(folder('alora'), { strategy: 'alora' });
    svgs = (await writeReport(folder('alora'))).svgs;
    page = read('alora', 'report.html');
  });

  it('gives the same bytes every time', async () => {
    const before = new Map(svgs.map((path) => [path, readFileSync(path, 'utf8')]));
    await writeReport(folder('alora'));
    expect(read('alora', 'report.html')).toBe(page);
    for (const [path, svg] of before) expect(readFileSync(path, 'utf8')).toBe(svg);
  });

  it('draws every figure of the run folder as a file and in the page', () => {
    const names = svgs.map((path) => basename(path, '.svg'));
    expect(names).toEqual(
      expect.arrayContaining([
        'loss',
        'learning-rate',
        'gradient-norm',
        'budget',
        'ranks-before',
        'ranks-after',
        'ranks-change',
        'ranks-by-kind',
        'ranks-by-layer',
        'scores-over-rounds',
        'scores-round-8',
        'step-time',
        'token-rate',
      ]),
    );
    for (const name of names) expect(page).toContain(`<figure id="figure-${name}"`);
    expect(readdirSync(join(folder('alora'), 'report')).sort()).toEqual(
      names.map((name) => `${name}.svg`).sort(),
    );
  });

  it('shows the numbers that stand in the files', () => {
    const result = JSON.parse(read('alora', 'result.json'));
    const text = visible(page);
    for (const score of [result.dev.before, result.dev.best, result.dev.last, result.test.best]) {
      expect(text).toContain(score.loss.toFixed(4));
      expect(text).toContain(score.metrics.tokenAccuracy.toFixed(4));
    }
    expect(text).toContain(`best (step ${result.bestStep})`);
    for (const count of [result.budget.target, result.budget.peak.parameters, result.budget.final.parameters])
      expect(text).toContain(count.toLocaleString('en-US'));
    expect(text).toContain(
      `${result.budget.final.parameters.toLocaleString('en-US')} parameters, as recorded.`,
    );
    for (const word of [
      result.command,
      result.configHash,
      result.hashes.model,
      result.versions['onnxruntime-node'],
      '412 MB',
      '2024-03-03',
    ])
      expect(text).toContain(word);
  });

  it('shows every allocation and the final rank of every module', () => {
    const lines = read('alora', 'metrics.jsonl')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    const rounds = lines.filter((line) => line.event === 'allocation');
    expect(rounds).toHaveLength(8);
    const text = visible(page);
    for (const { round, step, pruned, grown, loss } of rounds) {
      const won = Object.keys(grown).length;
      expect(text).toContain(` ${round} ${step} \u2212${pruned.length} ${won > 0 ? `+${won}` : 0} `);
      expect(text).toContain(loss.pruned.toFixed(4));
    }
    for (const [module, rank] of Object.entries(rounds.at(-1).ranks))
      expect(text).toContain(`${module} 8 ${rank} `);
  });

  it('numbers the cells of the heat maps with the ranks', () => {
    const texts = [...read('alora', 'report', 'ranks-after.svg').matchAll(/<text[^>]*>([^<]+)<\/text>/g)].map(
      (m) => m[1],
    );
    const ranks = Object.values(JSON.parse(read('alora', 'result.json')).ranks as Record<string, number>);
    for (const rank of new Set(ranks))
      expect(texts.filter((t) => t === String(rank)).length).toBeGreaterThanOrEqual(
        ranks.filter((r) => r === rank).length,
      );
    const before = read('alora', 'report', 'ranks-before.svg');
    expect(before.match(/>8<\/text>/g)).toHaveLength(ranks.length);
  });

  it('needs nothing from elsewhere', () => {
    expect(page).not.toMatch(/<script|<link(?! rel="icon" href="data:,")|@import|\bsrc=|srcset=/);
    expect(page.replace(/xmlns(:\w+)?="[^"]*"/g, '')).not.toMatch(/https?:\/\//);
    expect(page.match(/url\([^)]*\)/g) ?? []).toEqual(page.match(/url\(#[^)]*\)/g) ?? []);
    for (const path of svgs)
      expect(readFileSync(path, 'utf8').replace(/xmlns(:\w+)?="[^"]*"/g, '')).not.toMatch(
        /https?:|<image|<script/,
      );
  });

  it('has no two elements with one id', () => {
    const ids = [...page.matchAll(/\bid="([^"]+)"/g)].map((m) => m[1]);
    expect(new Set(ids).size).toBe(ids.length);
  });

  it('takes every colour of a figure to the dark scheme', () => {
    const drawn = new Set([...page.matchAll(/(?:fill|stroke)="(#[0-9a-f]+)"/g)].map((m) => m[1]!));
    expect(drawn.size).toBeGreaterThan(8);
    for (const hex of drawn) expect(page).toContain(`svg [fill="${hex}"]`);
  });

  it('leaves no unfinished file and no warning of the plotting library', () => {
    expect(readdirSync(folder('alora')).filter((name) => name.includes('.tmp'))).toEqual([]);
    expect(warnings).not.toHaveBeenCalled();
  });
});

describe('other runs', () => {
  it('reports LoRA without rounds and scores', async () => {
    makeRun(folder('lora'), { strategy: 'lora', steps: 60, layers: 2 });
    const { svgs } = await writeReport(folder('lora'));
    expect(svgs.map((path) => basename(path, '.svg'))).toContain('ranks');
    const text = visible(read('lora', 'report.html'));
    expect(text).toContain('none moved in this run');
    expect(text).not.toContain('Allocation rounds');
  });

  it('reports a run that is not finished, and says so', async () => {
    makeRun(folder('open'), { strategy: 'alora', steps: 100, layers: 2, finished: false });
    await writeReport(folder('open'));
    const text = visible(read('open', 'report.html'));
    expect(text).toContain('not finished');
    expect(text).toContain('No result.json yet');
    expect(text).toContain('its state at step 100');
  });

  it('reports a run that only evaluated the start', async () => {
    makeRun(folder('start'), { steps: 20, layers: 2, finished: false });
    const first = read('start', 'metrics.jsonl').split('\n')[0]!;
    writeFileSync(join(folder('start'), 'metrics.jsonl'), `${first}\n`);
    rmSync(join(folder('start'), 'adapter'), { recursive: true });
    rmSync(join(folder('start'), 'best'), { recursive: true });
    await writeReport(folder('start'));
    const text = visible(read('start', 'report.html'));
    expect(text).toContain(JSON.parse(first).loss.toFixed(4));
    expect(text).toContain('No adapter and no allocation has been written yet.');
  });

  it('draws a run of one step on an axis of whole steps, as a point, and no line of one number', async () => {
    makeRun(folder('one'), { steps: 20, layers: 2, finished: false });
    const lines = read('one', 'metrics.jsonl').trim().split('\n');
    const upTo = lines.findIndex((line) => line.includes('"event":"step"')) + 1;
    writeFileSync(join(folder('one'), 'metrics.jsonl'), `${lines.slice(0, upTo).join('\n')}\n`);
    const { svgs } = await writeReport(folder('one'));
    expect(svgs.map((path) => basename(path, '.svg'))).not.toContain('learning-rate');
    const svg = read('one', 'report/loss.svg');
    expect([...svg.matchAll(/>([\d.]+)<\/text>/g)].map(([, label]) => label).slice(0, 3)).not.toContain(
      '0.2',
    );
    expect(svg).toMatch(/mark-symbol role-mark layer_1_layer_1_marks/);
  });

  it('leaves out a torn last line, names other bad lines and unknown events, and marks what is not finite', async () => {
    makeRun(folder('torn'), { steps: 20, layers: 2, finished: false });
    const path = join(folder('torn'), 'metrics.jsonl');
    const lines = read('torn', 'metrics.jsonl').trim().split('\n');
    lines.splice(
      3,
      0,
      '{"event":"step","step":',
      '{"event":"weather","step":2}',
      '{"event":"step","step":"two"}',
    );
    writeFileSync(path, `${lines.join('\n')}\n{"event":"step","step":21,"loss":null,"ms":5}\n`);
    appendFileSync(path, '{"event":"step","step":22,"lo');
    await writeReport(folder('torn'));
    const text = visible(read('torn', 'report.html'));
    expect(text).toContain('metrics.jsonl line 4 is not JSON: left out');
    expect(text).toContain('metrics.jsonl line 5: unknown event &quot;weather&quot;: left out');
    expect(text).toMatch(/metrics\.jsonl line 6 \(step\): step: .*: left out/);
    expect(text).toContain(`metrics.jsonl line ${lines.length + 2} is torn (the last one): left out`);
    expect(text).toContain('the loss of step 21 is not finite');
    expect(text).toContain('its state at step 21');
  });

  it('gives scores that are not ablations no unit and no idle score', async () => {
    makeRun(folder('sensitivity'), { strategy: 'alora', steps: 40, layers: 2, rounds: 2 });
    for (const round of [1, 2]) {
      const path = join(folder('sensitivity'), `scores/round-${round}.json`);
      const scores = JSON.parse(readFileSync(path, 'utf8'));
      for (const rank of Object.values(scores.modules).flat() as Record<string, unknown>[])
        Object.assign(rank, { without: null, only: null });
      writeFileSync(path, JSON.stringify({ ...scores, scorer: 'sensitivity' }));
    }
    await writeReport(folder('sensitivity'));
    const section = visible(read('sensitivity', 'report.html')).split(' Scores ').slice(1).join();
    expect(section).toContain('Importance by the sensitivity scorer on 32 examples; one mark a rank');
    expect(section).not.toContain('does nothing');
    expect(read('sensitivity', 'report/scores-round-2.svg')).not.toContain('nats');
  });

  it('escapes what a model generated', async () => {
    makeRun(folder('escape'), { steps: 10, layers: 1 });
    const path = join(folder('escape'), 'result.json');
    const result = JSON.parse(readFileSync(path, 'utf8'));
    result.samples[1].text = '</p><script>alert(1)</script>';
    writeFileSync(path, JSON.stringify(result));
    await writeReport(folder('escape'));
    expect(read('escape', 'report.html')).not.toContain('<script');
  });

  it('treats a damaged result.json, scores file or adapter as absent and says so', async () => {
    makeRun(folder('damaged'), { strategy: 'alora', steps: 40, layers: 2, rounds: 2 });
    writeFileSync(join(folder('damaged'), 'result.json'), '{"budget":');
    writeFileSync(join(folder('damaged'), 'scores/round-1.json'), '{"scorer":"exact"}');
    rmSync(join(folder('damaged'), 'scores/round-2.json'));
    writeFileSync(join(folder('damaged'), 'adapter/adapter_model.safetensors'), 'not a tensor file at all');
    await writeReport(folder('damaged'));
    const text = visible(read('damaged', 'report.html'));
    for (const note of [
      'result.json is not JSON',
      'scores/round-1.json: modules',
      'scores/round-2.json is missing',
      'adapter/adapter_model.safetensors cannot be read',
    ])
      expect(text).toContain(note);
  });
});

describe('refusals', () => {
  it('names what a folder lacks and the run folder beneath it', async () => {
    mkdirSync(folder('runs/empty'), { recursive: true });
    makeRun(folder('runs/real'), { steps: 5, layers: 1 });
    const error = await refusal(folder('runs'));
    expect([error.kind, error.exitCode, error.code]).toEqual(['config', 3, 'REPORT_NOT_A_RUN']);
    expect(error.message).toContain('run.yaml is missing');
    expect(error.details.didYouMean).toBe(folder('runs/real'));
    expect((await refusal(folder('nowhere'))).message).toContain('there is no such folder');
    writeFileSync(join(folder('runs/empty'), 'run.yaml'), 'output: x\n');
    expect((await refusal(folder('runs/empty'))).message).toContain('metrics.jsonl is missing');
  });

  it('names a run.yaml that is not YAML', async () => {
    makeRun(folder('yaml'), { steps: 5, layers: 1 });
    writeFileSync(join(folder('yaml'), 'run.yaml'), 'a: [1\n');
    expect((await refusal(folder('yaml'))).code).toBe('REPORT_RUN_FILE');
  });

  it('is a storage error where the folder cannot be written', async () => {
    makeRun(folder('locked'), { steps: 5, layers: 1 });
    // A file where the folder of figures must go refuses every user; permissions would not refuse root.
    writeFileSync(join(folder('locked'), 'report'), '');
    const error = await refusal(folder('locked'));
    expect([error.kind, error.exitCode, error.code]).toEqual(['storage', 7, 'STORAGE_WRITE']);
  });
});
