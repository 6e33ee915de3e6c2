import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { templates } from '../../src/cli/templates.ts';
import { readRunFile } from '../../src/config/read.ts';
import * as strategies from '../../src/strategies.ts';
import { builtCli, run } from './builtCli.ts';

const dir = mkdtempSync(join(tmpdir(), 'init-'));
beforeAll(builtCli);
afterAll(() => rmSync(dir, { recursive: true }));

describe('onnx-alora init', () => {
  it.each(templates.map((t) => t.name))(
    '--template %s writes a run file that resolves, and its rows',
    async (name) => {
      const { code, stdout, stderr } = await run(dir, ['init', `${name}.yaml`, '--template', name]);
      expect([code, stderr]).toEqual([0, '']);
      expect(stdout).toContain(`wrote ${name}.yaml\n`);
      const { config } = await readRunFile(join(dir, `${name}.yaml`), { strategies });
      expect(config.output).toBe(join(dir, 'runs', name));
      expect(readFileSync(join(config.model.path, 'config.json'), 'utf8')).toContain('llama');
      const rows = readFileSync(config.data.train, 'utf8').trimEnd().split('\n');
      expect(rows).toHaveLength(2000);
      for (const row of rows) JSON.parse(row);
    },
  );

  it('does not overwrite what someone has changed, unless forced', async () => {
    await run(dir, ['init', 'mine.yaml']);
    expect((await run(dir, ['init', 'mine.yaml'])).code).toBe(0);
    writeFileSync(join(dir, 'mine.yaml'), 'model: {path: mine}\n');
    const refused = await run(dir, ['init', 'mine.yaml']);
    expect([refused.code, refused.stdout]).toEqual([7, '']);
    expect(refused.stderr).toMatch(/^error\[INIT_EXISTS\]: .*\n {2}where: .*mine\.yaml\n/);
    expect((await run(dir, ['init', 'mine.yaml', '--force'])).code).toBe(0);
    expect(readFileSync(join(dir, 'mine.yaml'), 'utf8')).toContain('strategy: lora');
  });
});
