import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { afterAll, describe, expect, it } from 'vitest';
import { readModel } from '../../src/onnx/decode.ts';
import { writeModel } from '../../src/onnx/encode.ts';
import type { Value } from '../../src/onnx/graph.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-roundtrip-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const models = new URL('../../fixtures/models/', import.meta.url).pathname;
const fixtures = (existsSync(models) ? readdirSync(models) : []).flatMap((name) => {
  const folder = join(models, name, 'onnx');
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((file) => file.endsWith('.onnx'))
    .map((file) => [`${name}/${file}`, join(folder, file)] as const);
});

/** Ids, masks and empty caches: whatever the graph asks for, at batch 2 and length 5. */
function feeds(inputs: readonly Value[]): Record<string, ort.Tensor> {
  return Object.fromEntries(
    inputs.map((input) => {
      const dims = (input.shape ?? []).map((dim, axis) => {
        if (typeof dim === 'number') return dim;
        if (axis === 0) return 2;
        return /past/.test(`${dim}`) && !/\+/.test(`${dim}`) ? 0 : 5;
      });
      const size = dims.reduce((a, b) => a * b, 1);
      if (input.dtype === 'int64') {
        const value = /mask/.test(input.name)
          ? () => 1n
          : (_: unknown, i: number) =>
              BigInt(/position/.test(input.name) ? i % 5 : /type/.test(input.name) ? 0 : (i * 7) % 50);
        return [input.name, new ort.Tensor('int64', BigInt64Array.from({ length: size }, value), dims)];
      }
      if (input.dtype === 'float16')
        return [input.name, new ort.Tensor('float16', new Uint16Array(size), dims)];
      return [input.name, new ort.Tensor('float32', new Float32Array(size), dims)];
    }),
  );
}

describe('load, save, run', () => {
  it('has fixtures to check', () => {
    expect(fixtures.length).toBeGreaterThan(0);
  });
  it.each(fixtures)('%s gives bit-identical outputs', async (name, path) => {
    const model = readModel(path);
    const copy = join(scratch, `${name.replaceAll('/', '-')}`);
    writeModel(model, copy);
    expect(statSync(copy).size).toBeGreaterThan(100);
    const input = feeds(model.graph.inputs.filter((value) => !value.initializer));
    const results = [];
    for (const file of [path, copy]) {
      const session = await ort.InferenceSession.create(file, { logSeverityLevel: 3 });
      results.push(await session.run(input));
      await session.release();
    }
    const [before, after] = results;
    expect(Object.keys(after!)).toEqual(Object.keys(before!));
    for (const [output, tensor] of Object.entries(before!)) expect(after![output]!.data).toEqual(tensor.data);
  });
});
