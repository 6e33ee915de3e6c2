import type { InferenceSession } from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { Turns } from '../../src/runtime/turns.ts';

/** Sessions that only say what happens to them; those named "dear" rest for none but "rare". */
function told() {
  const log: string[] = [];
  const turns = new Turns<string>(async (name) => {
    log.push(`open ${name}`);
    const release = async () => {
      log.push(`close ${name}`);
    };
    return {
      session: { release } as unknown as InferenceSession,
      restsFor: (working) => !name.startsWith('dear') || working === 'rare',
    };
  });
  const use = (name: string) =>
    turns.use(name, async () => {
      log.push(`${name} works`);
    });
  return { log, turns, use };
}

describe('sessions that take turns', () => {
  it('are closed while another one works, but for those that stay', async () => {
    const { log, turns, use } = told();
    await use('a');
    await use('a');
    await use('dear');
    await use('b');
    await use('dear');
    await use('rare');
    await turns.close();
    expect(log).toEqual([
      'open a',
      'a works',
      'a works',
      'close a',
      'open dear',
      'dear works',
      'open b',
      'b works',
      'close b',
      'dear works',
      'close dear',
      'open rare',
      'rare works',
      'close rare',
    ]);
  });

  it('wait for each other, also where nobody waits for them', async () => {
    const { log, turns, use } = told();
    const slow = turns.use('a', async () => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      log.push('a is done');
    });
    const next = use('b');
    const end = turns.close();
    await Promise.all([slow, next, end]);
    expect(log).toEqual(['open a', 'a is done', 'close a', 'open b', 'b works', 'close b']);
  });

  it('go on after an error, which whoever asked is told', async () => {
    const { log, turns, use } = told();
    const fault = turns.use('a', () => Promise.reject(new Error('no run today')));
    const next = use('b');
    await expect(fault).rejects.toThrow('no run today');
    await next;
    await turns.rest();
    expect(log).toEqual(['open a', 'close a', 'open b', 'b works', 'close b']);
  });
});
