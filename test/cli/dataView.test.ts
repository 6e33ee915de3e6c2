import pc from 'picocolors';
import { describe, expect, it } from 'vitest';
import { dataView } from '../../src/cli/dataView.ts';
import type { Split } from '../../src/tasks/data.ts';
import type { Tokenizer } from '../../src/tasks/tokenizer.ts';

const source = { file: 'rows.jsonl', line: 1 };
const train: Split = {
  // "May 3:" is the prompt; " 05-03" and the end token are learnt.
  examples: [{ kind: 'token', ids: [1, 2, 3, 4], targets: [-1, 3, 4, -1], source }],
  rows: 2,
  dropped: [
    {
      reason: 'nothing of the completion fits in maxLength',
      count: 1,
      first: { file: 'rows.jsonl', line: 2 },
    },
  ],
  truncated: 0,
};
const words = ['', 'May ', '3:', ' 05-03', '<end>'];
const tokenizer = { pieces: (ids: readonly number[]) => ids.map((id) => words[id]!) } as Tokenizer;

describe('dataView', () => {
  it('marks trained tokens with brackets where there are no colours, and counts', () => {
    expect(dataView({ train }, { tokenizer }, 3, pc.createColors(false))).toMatchInlineSnapshot(`
      "[trained] masked

      rows.jsonl:1  2 of 4 tokens trained
      May 3:[ 05-03<end>]

      split  rows  used  dropped  cut  length min / median / 95 % / max  tokens  trained   share
      train     2     1        1    0                     4 / 4 / 4 / 4       4        2  50.0 %

      train: 1 dropped: nothing of the completion fits in maxLength (first: rows.jsonl:2)"
    `);
  });

  it('colours trained tokens apart from masked ones', () => {
    const view = dataView({ train }, { tokenizer }, 3, pc.createColors(true));
    expect(view).toContain('\x1b[2m3:\x1b[22m\x1b[32m 05-03\x1b[39m\x1b[32m<end>\x1b[39m');
  });
});
