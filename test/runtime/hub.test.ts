import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { localModel } from '../../src/runtime/hub.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-hub-'));
const fixture = new URL('../../fixtures/models/phi3/', import.meta.url);
const files = [
  'config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'onnx/model.onnx',
  'onnx/model.onnx_data',
];
let server: Server;
let requests: string[] = [];
/** The hub fails when asked for this file. */
let failing: string | undefined;
/** Called when half of the ONNX file is sent, with what sends the rest and what breaks off. */
let slow: ((rest: () => void, breakOff: () => void) => void) | undefined;

/** A hub with one model, the fixture phi3, under the name someone/phi3. */
beforeAll(async () => {
  server = createServer((request, response) => {
    const url = request.url!;
    requests.push(url);
    if (url === '/api/models/someone/phi3')
      response.end(
        JSON.stringify({
          siblings: [...files, 'README.md', 'pytorch_model.bin'].sort().map((rfilename) => ({ rfilename })),
        }),
      );
    else if (failing && url.endsWith(failing)) response.writeHead(503).end();
    else if (url.startsWith('/someone/phi3/resolve/main/')) {
      const content = readFileSync(new URL(url.slice('/someone/phi3/resolve/main/'.length), fixture));
      if (!slow || !url.endsWith('model.onnx')) response.end(content);
      else {
        response.writeHead(200, { 'content-length': content.length });
        response.write(content.subarray(0, content.length / 2));
        slow(
          () => response.end(content.subarray(content.length / 2)),
          () => response.destroy(),
        );
      }
    } else response.writeHead(404).end();
  }).listen(0, '127.0.0.1');
  await new Promise((ready) => server.once('listening', ready));
});
beforeEach(() => {
  requests = [];
  vi.stubEnv('HF_ENDPOINT', `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  vi.stubEnv('HF_HOME', mkdtempSync(join(scratch, 'home-')));
});
afterAll(() => {
  vi.unstubAllEnvs();
  server.close();
  rmSync(scratch, { recursive: true });
});

describe('a hub id as model.path', () => {
  it('is whole after a download that broke off, with a named ONNX file too', async () => {
    failing = 'tokenizer_config.json';
    await expect(localModel('someone/phi3', 'onnx/model.onnx')).rejects.toMatchObject({ kind: 'model' });
    failing = undefined;
    const folder = await localModel('someone/phi3', 'onnx/model.onnx');
    for (const file of files) expect(existsSync(join(folder, file)), file).toBe(true);
  });

  it('is downloaded once: configuration, tokenizer, the best ONNX file and its data', async () => {
    const folder = await localModel('someone/phi3');
    for (const file of files)
      expect(readFileSync(join(folder, file))).toEqual(readFileSync(new URL(file, fixture)));
    expect(requests.some((url) => /README|pytorch_model/.test(url))).toBe(false);
    requests = [];
    expect(await localModel('someone/phi3')).toBe(folder);
    expect(requests).toEqual([]);
  });

  it('is fetched by two at the same time, and neither tears what the other writes', async () => {
    const waiting: (() => void)[] = [];
    // The second begins when half of the file is there, and the first ends before it.
    slow = (rest) => {
      if (waiting.push(rest) === 2) waiting[0]!();
    };
    const both = [localModel('someone/phi3'), localModel('someone/phi3')];
    await Promise.race(both);
    waiting[1]!();
    const [one, two] = await Promise.all(both);
    slow = undefined;
    expect(one).toBe(two);
    for (const file of files)
      expect(readFileSync(join(one!, file))).toEqual(readFileSync(new URL(file, fixture)));
    expect(readdirSync(one!, { recursive: true }).filter((name) => String(name).endsWith('.tmp'))).toEqual(
      [],
    );
  });

  it('that breaks off in the middle of a file is no fault of the disk, and leaves nothing behind', async () => {
    const folder = join(process.env.HF_HOME!, 'onnx-alora/someone/phi3/onnx');
    const begun = () =>
      readdirSync(folder).some(
        (name) => /^model\.onnx\..*tmp$/.test(name) && statSync(join(folder, name)).size > 0,
      );
    slow = async (_, breakOff) => {
      while (!begun()) await sleep(5);
      breakOff();
    };
    await expect(localModel('someone/phi3')).rejects.toMatchObject({ code: 'HUB_UNREACHABLE' });
    slow = undefined;
    expect(readdirSync(folder).filter((name) => name !== 'model.onnx_data')).toEqual([]);
    // What a process left that was ended goes with the next download.
    const left = join(folder, 'model.onnx.1.tmp');
    writeFileSync(left, 'half');
    utimesSync(left, 0, 0);
    await localModel('someone/phi3');
    expect(existsSync(left)).toBe(false);
  });

  it('is a folder of that name where there is one', async () => {
    expect(await localModel('fixtures/models')).toBe('fixtures/models');
    expect(requests).toEqual([]);
  });

  it('is refused by name when the hub does not have it, or has no such ONNX file', async () => {
    await expect(localModel('someone/else')).rejects.toMatchObject({ code: 'HUB_NOT_FOUND', exitCode: 5 });
    await expect(localModel('someone/phi3', 'onnx/model_q4.onnx')).rejects.toMatchObject({
      code: 'HUB_NO_ONNX',
      details: { allowed: ['onnx/model.onnx'] },
    });
  });

  it('says so when the hub cannot be reached', async () => {
    vi.stubEnv('HF_ENDPOINT', 'http://127.0.0.1:9');
    await expect(localModel('someone/other')).rejects.toMatchObject({ code: 'HUB_UNREACHABLE', exitCode: 5 });
  });
});
