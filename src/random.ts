import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

/** A deterministic stream of random numbers. */
export interface Random {
  /** Uniform in [0, 1), 32 bits. */
  uniform(): number;
  /** Standard normal (Box-Muller). */
  normal(): number;
  /** Uniform integer in [0, below). */
  integer(below: number): number;
  /** Fisher-Yates, in place. */
  shuffle<T>(items: T[]): T[];
}

/** FNV-1a with a final avalanche: a 32-bit hash of the keys that name a stream. */
function hash(keys: readonly (number | string)[]): number {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(JSON.stringify(keys))) h = Math.imul(h ^ byte, 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) | 0;
}

/**
 * The stream that belongs to a seed and a list of keys, such as (seed, module, rank serial). Independent of
 * every other stream and of how often those were read, so that resuming or reordering changes nothing.
 */
export function randomStream(seed: number, ...keys: (number | string)[]): Random {
  const generator = xoroshiro128plus(hash([seed, ...keys]));
  const uniform = () => (generator.next() >>> 0) / 2 ** 32;
  const integer = (below: number) => Math.floor(uniform() * below);
  return {
    uniform,
    integer,
    normal() {
      const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
      return radius * Math.cos(2 * Math.PI * uniform());
    },
    shuffle(items) {
      for (let i = items.length - 1; i > 0; i--) {
        const j = integer(i + 1);
        [items[i], items[j]] = [items[j]!, items[i]!];
      }
      return items;
    },
  };
}
