import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { check, store } from '../../bench/guard.ts';
import { pairedRatio, type Spread } from '../../bench/spread.ts';

const folder = mkdtempSync(join(tmpdir(), 'onnx-alora-guard-'));
const file = join(folder, 'ratios.json');
afterAll(() => rmSync(folder, { recursive: true }));

const machine = { cpu: 'a processor', cores: 2, memory: 8e9, system: 'linux x64' };
const ratio = (median: number): Spread => ({ median, low: median, high: median });

let said = '';
beforeEach(() => {
  said = '';
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    said += String(text);
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  rmSync(file, { force: true });
});

describe('check', () => {
  it('passes down to 0.85 of the stored ratio and fails below', () => {
    store({ time: ratio(2), memory: ratio(3) }, { machine }, file);
    expect(check({ time: ratio(1.71), memory: ratio(3.2) }, machine, file)).toBe(true);
    expect(check({ time: ratio(1.69), memory: ratio(3.2) }, machine, file)).toBe(false);
    expect(said).toMatch(/FELL\s+time: 1\.69, stored 2\.00 \(-16 %\)/);
  });

  it('fails where nothing can be compared, and says so', () => {
    expect(check({ time: ratio(2) }, machine, file)).toBe(false);
    store({ time: ratio(2) }, { machine }, file);
    expect(check({ other: ratio(9) }, machine, file)).toBe(false);
    expect(said).toMatch(/there is no .*nothing to compare/s);
  });

  it('says where the file is of another machine', () => {
    store({ time: ratio(2) }, { machine }, file);
    expect(check({ time: ratio(2) }, { ...machine, cores: 8 }, file)).toBe(true);
    expect(said).toContain('another machine (a processor, 2 cores)');
  });
});

describe('store', () => {
  const names = () => Object.keys((JSON.parse(readFileSync(file, 'utf8')) as { ratios: object }).ratios);

  it('keeps what the same machine has there, and nothing of another', () => {
    store({ first: ratio(2) }, { machine }, file);
    store({ second: ratio(2) }, { machine }, file);
    expect(names()).toEqual(['first', 'second']);
    store({ third: ratio(2) }, { machine: { ...machine, cores: 8 } }, file);
    expect(names()).toEqual(['third']);
  });
});

it('a paired ratio is that of the medians, its range that within turns', () => {
  const theirs = [
    [4, 4, 4],
    [9, 9, 9],
  ];
  const ours = [
    [2, 2, 2],
    [3, 3, 3],
  ];
  expect(pairedRatio(theirs, ours)).toEqual({ median: 6.5 / 2.5, low: 2, high: 3 });
});
