import { type Example, nextTokenTargets, stringField, type Task } from './task.ts';

/**
 * Task `text`: plain text, every token but the first is learnt.
 *
 * A row's tokens are exactly what the tokenizer gives (post-processor included), cut to the first `maxLength`, nothing
 * appended. A document (.txt) is tokenised whole and cut into consecutive blocks of `maxLength` tokens; a last block of
 * two tokens or more is kept.
 */
export const text: Task = {
  name: 'text',
  fields: ['text'],
  prepare: ({ tokenizer, maxLength }) => ({
    kind: 'token',
    metrics: ['perplexity', 'tokenAccuracy'],
    encode(row) {
      const value = stringField(row, 'text');
      if (value.trim() === '') return { dropped: 'empty text' };
      const all = tokenizer.encode(value).ids;
      const ids = all.slice(0, maxLength);
      if (ids.length < 2) return { dropped: 'a single token: nothing to predict' };
      return {
        kind: 'token',
        ids,
        targets: nextTokenTargets(ids, () => true),
        source: row.source,
        completion: value,
        truncated: ids.length < all.length,
      };
    },
    encodeDocument(document, file) {
      const { ids } = tokenizer.encode(document);
      const blocks: Example[] = [];
      for (let start = 0; start + 2 <= ids.length; start += maxLength) {
        const block = ids.slice(start, start + maxLength);
        blocks.push({
          kind: 'token',
          ids: block,
          targets: nextTokenTargets(block, () => true),
          source: { file, line: blocks.length + 1, unit: 'block' },
        });
      }
      return blocks;
    },
  }),
};
