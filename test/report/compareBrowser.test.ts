import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeReport } from '../../src/report/index.ts';
import { makeComparison } from '../compare/made.ts';

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const absent = !existsSync(executablePath);
if (absent)
  console.warn(
    `SKIPPED: the comparison in a browser: no ${executablePath} (set CHROMIUM to a Chromium to run it)`,
  );

const root = mkdtempSync(join(tmpdir(), 'compare-page-'));
const output = join(root, 'out');
let svgs: string[];
let html: string;
beforeAll(async () => {
  const rows = join(root, 'sst2.jsonl');
  const sentences = [
    'a joy',
    'a bore',
    'it charms',
    'it drags',
    'see it',
    'skip it',
    'warm and wise',
    'cold and long',
  ];
  writeFileSync(
    rows,
    sentences.map((sentence, i) => `${JSON.stringify({ sentence, label: 1 - (i % 2) })}\n`).join(''),
  );
  // A named task of the paper, three seeds for intervals, two budgets, and a rate at which one method's runs diverge.
  await makeComparison(output, {
    strategies: [
      'lora',
      { strategy: 'sora', gateLearningRate: 1e30 },
      { strategy: 'alora', rounds: 1, ranksPerRound: 2, examples: 4 },
    ],
    seeds: [0, 1, 2],
    grid: { 'budget.rank': [1, 2] },
    data: { task: 'sst2', train: rows, dev: rows, maxLength: 64 },
    train: { steps: 4, evalEvery: 2, checkpointEvery: 0 },
  });
  ({ svgs } = await writeReport(output));
  html = readFileSync(join(output, 'report.html'), 'utf8');
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** The text a reader sees, tags and style left out. */
const visible = () =>
  html
    .replace(/<style>[\s\S]*?<\/style>/, '')
    .replace(/<svg[\s\S]*?<\/svg>/g, '')
    .replace(/<[^>]+>/g, ' ')
    .replace(/\s+/g, ' ');

describe('the page of a comparison', () => {
  it('gives the same bytes every time', async () => {
    await writeReport(output);
    expect(readFileSync(join(output, 'report.html'), 'utf8')).toBe(html);
  });

  it('draws curves, seeds, the budget figure and rank maps, each as a file too', () => {
    const names = svgs.map((path) => basename(path, '.svg').replace(/-[0-9a-f]{8}-/, '-'));
    expect(names).toEqual(
      expect.arrayContaining([
        'training-loss-budget.rank-1',
        'dev-loss-budget.rank-2',
        'seeds-budget.rank-2',
        'performance-against-budget',
        'lora-ranks',
        'alora-ranks',
        'alora-change',
      ]),
    );
  });

  it('shows failed runs as such, checks, and the paper apart from ours', () => {
    const text = visible();
    expect(text).toMatch(/3 diverged/);
    expect(text).toContain('Runs without a result');
    expect(text).toContain('tokens and labels of every step are the same');
    expect(text).toContain("the paper's own numbers Table 1, LLaMA-2 7B, median of 5 seeds");
    expect(text).toContain('95.0 (20 M → 19.6 M)');
    expect(text).toContain('It was not searched for each');
  });
});

describe.skipIf(absent)('the page of a comparison in a browser', () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath, args: ['--no-sandbox'], timeout: 0 });
  });
  afterAll(() => browser?.close());

  const shownPanels = (tab: Page) =>
    tab.evaluate<number[]>(
      `[...document.querySelectorAll('.panel')].flatMap((panel, i) => panel.getClientRects().length > 0 ? [i] : [])`,
    );

  it.each([
    [1280, 'light'],
    [1280, 'dark'],
    [400, 'light'],
    [400, 'dark'],
  ] as const)(
    'fits %d pixels, %s, and switches the method, with no error and no request',
    async (width, colorScheme) => {
      const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme });
      context.setDefaultTimeout(0);
      const tab = await context.newPage();
      const problems: string[] = [];
      const requests: string[] = [];
      tab.on('console', (message) => problems.push(message.text()));
      tab.on('pageerror', (error) => problems.push(error.message));
      tab.on('request', (request) => requests.push(request.url()));
      const url = pathToFileURL(join(output, 'report.html')).href;
      await tab.goto(url);
      expect(await tab.evaluate<number>('document.documentElement.scrollWidth')).toBeLessThanOrEqual(width);

      expect(await shownPanels(tab)).toEqual([0]);
      await tab.click('label[for=m2]');
      expect(await shownPanels(tab)).toEqual([2]);
      await tab.keyboard.press('ArrowRight');
      expect(await shownPanels(tab)).toEqual([3]);
      expect(
        await tab.evaluate<boolean>(
          `[...document.querySelectorAll('.panel.p3 svg')].some((svg) => svg.getBoundingClientRect().height > 60)`,
        ),
      ).toBe(true);

      await tab.emulateMedia({ media: 'print' });
      expect(await shownPanels(tab)).toHaveLength(6);
      expect(problems).toEqual([]);
      expect(requests.filter((one) => !one.startsWith('data:'))).toEqual([url]);
      await context.close();
    },
  );
});
