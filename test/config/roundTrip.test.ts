import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readRaw } from '../../src/config/read.ts';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import type { RunConfigInput } from '../../src/config/schema.ts';
import { configHash, stringifyRunConfig } from '../../src/config/write.ts';
import * as strategies from '../../src/strategies.ts';
import fc from '../fastCheck.ts';

const dir = mkdtempSync(join(tmpdir(), 'round-trip-'));
afterAll(() => rmSync(dir, { recursive: true }));

/** Words that YAML might take for something else: numbers, booleans, nulls, tags, quotes, line breaks. */
const word = fc.oneof(
  fc.constantFrom('1e3', 'true', 'null', '~', '- a', '#b', 'a: b', '!t', '"', "'", 'x\ny', 'ü', 'no', '0x1'),
  fc.string({ minLength: 1, maxLength: 8, unit: 'grapheme' }),
);
const path = word.filter((text) => !text.includes('\0'));

const input: fc.Arbitrary<RunConfigInput> = fc.record({
  model: fc.record({
    path,
    targets: fc.oneof(fc.constant('all-linear' as const), fc.array(word, { minLength: 1 })),
  }),
  data: fc.record({
    train: path,
    dev: fc.oneof(path, fc.constant(0.05)),
    labels: fc.array(word, { minLength: 2 }),
  }),
  adapter: fc.record({ alpha: fc.float({ min: Math.fround(1e-3), noNaN: true, max: 1e4 }) }),
  train: fc.record({
    steps: fc.integer({ min: 1, max: 1e6 }),
    learningRate: fc.double({ min: 1e-12, max: 1, noNaN: true }),
  }),
  output: path,
});

describe('a resolved configuration', () => {
  it('comes back from its YAML unchanged, and resolving it again changes nothing', () => {
    fc.assert(
      fc.property(input, (raw) => {
        const config = resolveRunConfig(raw, { strategies, baseDir: dir });
        expect(resolveRunConfig(config, { strategies, baseDir: '/elsewhere' })).toEqual(config);
        const file = join(dir, 'run.yaml');
        writeFileSync(file, stringifyRunConfig(config, dir));
        const again = resolveRunConfig(readRaw(file).value, { strategies, baseDir: dir });
        expect(again).toEqual(config);
        expect(configHash(again)).toBe(configHash(config));
      }),
      { numRuns: 200 },
    );
  });
});
