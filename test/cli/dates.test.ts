import { describe, expect, it } from 'vitest';
import { dateExamples } from '../../src/cli/dates.ts';

const examples = dateExamples(3000, 7);

/** What the JavaScript engine itself reads in the prompt, once it has a form that the engine knows. */
function readDate(prompt: string): string {
  const plain = prompt
    .replace(/:$/, '')
    .replace(/^in the year (\d+), on (.*)$/, '$2 $1')
    .replace(/(\d)(st|nd|rd|th)\b/, '$1')
    .replace(/\b(the|of)\b/g, ' ')
    .replace('.', '');
  return new Date(`${plain} UTC`).toISOString().slice(0, 10);
}

describe('dateExamples', () => {
  it('writes in the completion the date that the prompt names', () => {
    for (const { prompt, completion } of examples) expect(` ${readDate(prompt)}`, prompt).toBe(completion);
  });

  it('names the right weekday', () => {
    const withWeekday = examples.filter(({ prompt }) => /day\b/.test(prompt));
    expect(withWeekday.length).toBeGreaterThan(100);
    for (const { prompt, completion } of withWeekday) {
      const weekday = new Intl.DateTimeFormat('en', { weekday: 'long', timeZone: 'UTC' }).format(
        new Date(completion.trim()),
      );
      expect(prompt).toContain(weekday);
    }
  });

  it('writes ordinals as English does', () => {
    const ordinals = new Set(examples.flatMap(({ prompt }) => prompt.match(/\b\d+(st|nd|rd|th)\b/g) ?? []));
    const expected = Array.from({ length: 31 }, (_, i) => i + 1).map((day) => {
      const suffix = { one: 'st', two: 'nd', few: 'rd', other: 'th' } as Record<string, string>;
      return `${day}${suffix[new Intl.PluralRules('en', { type: 'ordinal' }).select(day)]}`;
    });
    expect([...ordinals].sort()).toEqual(expected.sort());
  });

  it('depends on the seed alone', () => {
    expect(dateExamples(3000, 7)).toEqual(examples);
    expect(dateExamples(20, 7)).toEqual(examples.slice(0, 20));
    expect(dateExamples(20, 8)).not.toEqual(examples.slice(0, 20));
  });
});
