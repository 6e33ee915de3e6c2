import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { bleu, tokenize13a } from '../../src/tasks/metrics/bleu.ts';
import { groupByPrompt, scoreGenerated } from '../../src/tasks/metrics/generated.ts';
import { meteor } from '../../src/tasks/metrics/meteor.ts';
import { porterStem } from '../../src/tasks/metrics/porter.ts';
import { rougeL } from '../../src/tasks/metrics/rouge.ts';
import { exactMatch, f1, normalizeAnswer } from '../../src/tasks/metrics/squad.ts';
import type { Example } from '../../src/tasks/task.ts';

const golden = JSON.parse(
  readFileSync(new URL('../../fixtures/tasks/text_metrics.json', import.meta.url), 'utf8'),
) as {
  pairs: {
    prediction: string;
    references: string[];
    bleu: number;
    tokens: string[];
    meteor: number;
    rougeL: number;
  }[];
  corpusBleu: number;
  stems: Record<string, string>;
};

describe('against the Python libraries', () => {
  // Sums of a few dozen float64 terms in another order: 12 digits are the same.
  for (const { prediction, references, ...expected } of golden.pairs)
    it(prediction || 'an empty prediction', () => {
      expect(tokenize13a(prediction)).toEqual(expected.tokens);
      expect(bleu([prediction], [references])).toBeCloseTo(expected.bleu, 10);
      expect(meteor(prediction, references)).toBeCloseTo(expected.meteor, 12);
      expect(rougeL(prediction, references)).toBeCloseTo(expected.rougeL, 12);
    });
  it('corpus BLEU with several references', () => {
    const predictions = golden.pairs.map(({ prediction }) => prediction);
    const references = golden.pairs.map((pair) => pair.references);
    expect(bleu(predictions, references)).toBeCloseTo(golden.corpusBleu, 10);
  });
  it('Porter stems', () => {
    for (const [word, stem] of Object.entries(golden.stems)) expect(porterStem(word), word).toBe(stem);
  });
});

describe('SQuAD', () => {
  it('normalises answers', () => {
    expect(normalizeAnswer('  The U.S.  Congress, an "old" body ')).toBe('us congress old body');
    expect(exactMatch('the Eiffel Tower.', 'Eiffel tower')).toBe(1);
  });
  it('counts words as often as both have them', () => {
    expect(f1('new new york', 'new york city')).toBeCloseTo(2 / 3, 12);
    expect(f1('york', 'paris')).toBe(0);
    expect(f1('', '')).toBe(1);
    expect(f1('', 'a word')).toBe(0);
  });
});

describe('generated answers', () => {
  const example = (prompt: string, completion: string, references?: string[]): Example => ({
    kind: 'token',
    ids: [],
    targets: [],
    source: { file: 'a', line: 1 },
    prompt,
    completion,
    references,
  });
  it('are scored against all texts of the same prompt', () => {
    const groups = groupByPrompt([example('p', 'one'), example('q', 'x', ['x', 'y']), example('p', 'two')]);
    expect(groups).toEqual([
      { prompt: 'p', references: ['one', 'two'] },
      { prompt: 'q', references: ['x', 'y'] },
    ]);
    expect(scoreGenerated(['accuracy', 'em', 'f1', 'rougeL'], [' Two', 'z'], groups)).toEqual({
      accuracy: 0.5,
      em: 0.5,
      f1: 0.5,
      rougeL: 0.5,
    });
    expect(scoreGenerated(['perplexity'], ['a'], groups)).toEqual({});
  });
});
