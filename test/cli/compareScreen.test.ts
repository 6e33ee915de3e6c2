import { describe, expect, it } from 'vitest';
import { compareScreen } from '../../src/cli/compareScreen.ts';
import type { Job } from '../../src/compare/runner.ts';

const job = (id: string): Job => ({ id, folder: `/nowhere/${id}`, kind: 'run', steps: 100 });

function screen(isTTY: boolean) {
  let out = '';
  let err = '';
  let clock = 0;
  const made = compareScreen(
    { isTTY, columns: 120, write: (text) => (out += text) },
    { isTTY: false, write: (text) => (err += text) },
    () => clock,
  );
  return { made, out: () => out, err: () => err, wait: (ms: number) => (clock += ms) };
}

describe('the screen of a comparison', () => {
  it('counts runs and the time left over the whole grid, resumed steps aside', () => {
    const { made, out, wait } = screen(false);
    const jobs = ['lora-1/seed-0', 'lora-1/seed-1', 'sora-2/seed-0', 'sora-2/seed-1'].map(job);
    made.onQueue?.(jobs, [jobs[0]!]);
    made.onStart?.(jobs[1]!);
    made.onPlan?.(jobs[1]!, { startStep: 50 } as never);
    wait(5_000);
    made.onStep?.(jobs[1]!, 100, 1);
    made.onEnd?.(jobs[1]!);
    // 50 steps took 5 s, so that the 200 that are left take 20; the run that was resumed counts for its half.
    expect(out()).toContain('4 runs, 1 of them finished before');
    expect(out()).toContain('lora-1/seed-1: goes on at step 50');
    expect(out()).toMatch(/\[2\/4\] lora-1\/seed-1: 0:05 · 0:20 left/);
    expect(out()).not.toContain('\r');
  });

  it('takes each method at its own pace, and runs at the same time together', () => {
    const { made, out, wait } = screen(false);
    const jobs = ['lora-1/seed-0', 'alora-2/seed-0', 'lora-1/seed-1', 'alora-2/seed-1'].map(job);
    made.onQueue?.(jobs, []);
    for (const one of jobs.slice(0, 2)) made.onStart?.(one);
    wait(10_000);
    made.onStep?.(jobs[0]!, 100, 1);
    made.onStep?.(jobs[1]!, 50, 1);
    made.onEnd?.(jobs[0]!);
    // alora takes 0.2 s a step and has 150 to go, lora 0.1 s and 100: 40 s of work, two runs at a time.
    expect(out()).toMatch(/\[1\/4\] lora-1\/seed-0: 0:10 · 0:20 left/);
    wait(30_000);
    made.onStep?.(jobs[1]!, 100, 1);
    made.onEnd?.(jobs[1]!);
    // alora's last 50 steps, with their scoring, took 30 s: 0.4 s a step, and that run is the longest.
    expect(out()).toMatch(/\[2\/4\] alora-2\/seed-0: 0:40 · 0:40 left/);
  });

  it('reports a failure and goes on, and says what all runs share once', () => {
    const { made, out, err } = screen(false);
    const jobs = ['lora-1/seed-0', 'sora-2/seed-0'].map(job);
    made.onQueue?.(jobs, []);
    for (const one of jobs) {
      made.onStart?.(one);
      made.onWarning?.(one, '3 rows dropped');
    }
    made.onEnd?.(jobs[1]!, { kind: 'diverged', code: 'DIVERGED', message: 'the loss is not finite' });
    expect(out()).toContain('[1/2] sora-2/seed-0: diverged: the loss is not finite');
    expect(err().match(/3 rows dropped/g)).toHaveLength(1);
  });

  it('says that answers are generated: a line for a run in a pipe, how far it is on a terminal', () => {
    for (const isTTY of [false, true]) {
      const { made, out, wait } = screen(isTTY);
      const jobs = [job('lora-1/seed-0')];
      made.onQueue?.(jobs, []);
      made.onStart?.(jobs[0]!);
      for (const done of [0, 20]) {
        wait(1_000);
        made.onAnswers?.(jobs[0]!, { done, prompts: 40 });
      }
      expect(out().includes('[0/1] lora-1/seed-0: answers 40 prompts of test\n')).toBe(!isTTY);
      expect(out().includes('lora-1/seed-0 answers 20/40')).toBe(isTTY);
    }
  });

  it('draws one live line on a terminal and takes it away', () => {
    const { made, out, wait } = screen(true);
    const jobs = [job('lora-1/seed-0')];
    made.onQueue?.(jobs, []);
    made.onStart?.(jobs[0]!);
    wait(1_000);
    made.onStep?.(jobs[0]!, 50, 1);
    expect(out()).toContain('0:01 left  lora-1/seed-0 50/100');
    made.close();
    expect(out().endsWith('\r\x1b[2K')).toBe(true);
  });
});
