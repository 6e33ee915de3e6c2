import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Browser, chromium } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeRun } from '../../fixtures/report/makeRun.ts';
import { writeReport } from '../../src/report/index.ts';

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const absent = !existsSync(executablePath);
if (absent)
  console.warn(
    `SKIPPED: the report in a browser: no ${executablePath} (set CHROMIUM to a Chromium to run it)`,
  );

interface Seen {
  readonly width: number;
  /** Figures that are displayed, and whether each has a height that can be seen. */
  readonly figures: number;
  readonly tall: boolean;
  /** Axis labels: how many, the least contrast with the page, the least height in CSS pixels. */
  readonly labels: number;
  readonly contrast: number;
  readonly smallest: number;
}

/** Runs in the page, hence a text: the rest of the project is compiled without a browser's types. */
const measure = `(() => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((c) =>
      c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = luminance(getComputedStyle(document.body).backgroundColor);
  const shown = [...document.querySelectorAll('svg')].filter((svg) => svg.getClientRects().length > 0);
  const labels = shown.flatMap((svg) => [...svg.querySelectorAll('.role-axis-label text')]);
  const contrast = labels.map((label) => {
    const ink = luminance(getComputedStyle(label).fill);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  });
  return {
    width: document.documentElement.scrollWidth,
    figures: shown.length,
    tall: shown.every((svg) => svg.getBoundingClientRect().height > 60),
    labels: labels.length,
    contrast: Math.min(...contrast),
    smallest: Math.min(...labels.map((label) => label.getBoundingClientRect().height)),
  };
})()`;

describe.skipIf(absent)('the report in a browser', () => {
  const root = mkdtempSync(join(tmpdir(), 'report-browser-'));
  let browser: Browser;
  let page: string;
  beforeAll(async () => {
    makeRun(root, { strategy: 'alora' });
    page = pathToFileURL((await writeReport(root)).html).href;
    browser = await chromium.launch({ executablePath, args: ['--no-sandbox'], timeout: 0 });
  });
  afterAll(async () => {
    await browser?.close();
    rmSync(root, { recursive: true, force: true });
  });

  it.each([
    [1280, 'light'],
    [1280, 'dark'],
    [400, 'light'],
    [400, 'dark'],
  ] as const)('fits %d pixels, %s, legible, with no error and no request', async (width, colorScheme) => {
    const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme });
    context.setDefaultTimeout(0);
    const tab = await context.newPage();
    const problems: string[] = [];
    const requests: string[] = [];
    tab.on('console', (message) => problems.push(message.text()));
    tab.on('pageerror', (error) => problems.push(error.message));
    tab.on('request', (request) => requests.push(request.url()));
    await tab.goto(page);
    expect(problems).toEqual([]);
    expect(requests.filter((url) => !url.startsWith('data:'))).toEqual([page]);

    const seen = await tab.evaluate<Seen>(measure);
    expect(seen.width).toBeLessThanOrEqual(width);
    expect(seen.figures).toBe(13);
    expect(seen.tall).toBe(true);
    expect(seen.labels).toBeGreaterThan(100);
    // 4.5: WCAG AA for text of this size.
    expect(seen.contrast).toBeGreaterThan(4.5);
    // A label of 11 px has a box of 12 to 13 px; 9 would be text that a telephone user cannot read.
    expect(seen.smallest).toBeGreaterThan(9);
    await context.close();
  });
});
