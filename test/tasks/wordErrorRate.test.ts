import { expect, it } from 'vitest';
import { speechBegins } from '../../src/runtime/seq2seq.ts';
import { wordErrorRate } from '../../src/tasks/metrics/wordErrorRate.ts';

it('counts replaced, missing and added words over the words of all references', () => {
  expect(wordErrorRate(['the cat sat'], ['the cat sat'])).toBe(0);
  // One replaced, one missing; one added: 3 of 3 + 4 words.
  expect(wordErrorRate(['a cat', 'we saw two big ships'], ['the cat sat', 'we saw two ships'])).toBeCloseTo(
    3 / 7,
    12,
  );
  expect(wordErrorRate(['one two three'], ['one'])).toBe(2);
  expect(wordErrorRate([' one\n two '], ['one two'])).toBe(0);
});

it('begins with what forced_decoder_ids name, up to the first place that is free', () => {
  const config = { decoder_start_token_id: 50258, forced_decoder_ids: [[1, 50259]] };
  expect(speechBegins(config)).toEqual([50258, 50259]);
  const generation = {
    forced_decoder_ids: [
      [1, 50261],
      [2, 50359],
      [3, 50363],
    ],
  };
  expect(speechBegins(config, generation)).toEqual([50258, 50261, 50359, 50363]);
  const free = {
    forced_decoder_ids: [
      [1, null],
      [2, 50359],
    ],
  };
  expect(speechBegins(config, free)).toEqual([50258]);
});
