import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { AloraError } from '../../src/errors.ts';
import { decodeModel, readModel } from '../../src/onnx/decode.ts';
import { encodeModel, writeModel, writeTensors } from '../../src/onnx/encode.ts';
import { Graph, Node } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-skim-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** y = x W_1 ... W_n, W: [1024, 1024], and a small bias. */
function chain(products: number) {
  const graph = new Graph('chain');
  let x = graph.input('x', 'float32', ['rows', 1024]);
  for (let i = 0; i < products; i++) {
    const values = Float32Array.from({ length: 2 ** 20 }, (_, k) => i + k / 2 ** 20);
    const weight = graph.constant(
      `weight${i}`,
      new Tensor('float32', [1024, 1024], new Uint8Array(values.buffer)),
    );
    const product = graph.value(`product${i}`);
    graph.add(new Node('MatMul', '', `/layer${i}/MatMul`, [x, weight], [product]));
    x = product;
  }
  const y = graph.value('y');
  graph.add(new Node('Add', '', '/Add', [x, graph.constant('bias', Tensor.float32([1, 2, 3]))], [y]));
  graph.outputs = [y];
  return { irVersion: 8, opsets: new Map([['', 17]]), graph, producer: '', metadata: new Map() };
}

describe('reading a model file', () => {
  it('leaves the weights in the file: 64 MB take less than 2 MB', () => {
    const path = join(scratch, 'large.onnx');
    writeModel(chain(16), path);
    expect(statSync(path).size).toBeGreaterThan(64 * 2 ** 20);
    const before = process.memoryUsage().arrayBuffers;
    const model = readModel(path);
    // The window of the reader and the messages of the nodes.
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 * 2 ** 20);
    expect(model.graph.initializers.size).toBe(17);
  });

  it('gives the same tensors as decoding all bytes, whole or in pieces', () => {
    const path = join(scratch, 'small.onnx');
    const bytes = encodeModel(chain(2));
    writeFileSync(path, bytes);
    const [skimmed, whole] = [readModel(path), decodeModel(bytes, path)].map((model) =>
      [...model.graph.initializers].map(({ name, initializer }) => [
        name,
        initializer!.dims,
        sha256(initializer!.bytes()),
        sha256(Buffer.concat([...initializer!.pieces()])),
      ]),
    );
    expect(skimmed).toEqual(whole);
  });

  it('writes them into another file in the same folder, and over the file itself', () => {
    const path = join(scratch, 'again.onnx');
    writeFileSync(path, encodeModel(chain(2)));
    const before = decodeModel(encodeModel(chain(2)), path);
    const model = readModel(path);
    for (const target of [join(scratch, 'copy.onnx'), path]) {
      writeModel(model, target);
      expect(sha256(encodeModel(readModel(target)))).toBe(sha256(encodeModel(before)));
    }
  });

  it('moves them to a data file piece by piece', () => {
    const path = join(scratch, 'source.onnx');
    writeFileSync(path, encodeModel(chain(5)));
    const tensors = [...readModel(path).graph.initializers].map(({ initializer }) => initializer!);
    const moved = writeTensors(tensors, join(scratch, 'weights.bin'));
    moved.forEach((tensor, i) => {
      expect(Buffer.compare(tensor.bytes(), tensors[i]!.bytes())).toBe(0);
    });
  });

  it('refuses a file that is cut short within a weight', () => {
    const path = join(scratch, 'cut.onnx');
    writeFileSync(path, encodeModel(chain(2)).subarray(0, 6 * 2 ** 20));
    expect(() => readModel(path)).toThrow(AloraError);
    expect(() => readModel(path)).toThrow('not a readable ONNX model');
  });
});
