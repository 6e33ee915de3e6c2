import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { writeModel, writeTensors } from '../../src/onnx/encode.ts';
import { Graph, type Model } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-external-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** y = x + w, w in a data file. */
function withDataFile(path: string): Model {
  const graph = new Graph();
  const [weight] = writeTensors([Tensor.float32([1, 2, 3, 4])], path);
  const x = graph.input('x', 'float32', [4]);
  graph.outputs = [new Builder(graph, 'm').op('Add', [x, graph.constant('w', weight!)])];
  return { irVersion: 8, opsets: new Map([['', 17]]), graph, producer: 'test', metadata: new Map() };
}

const weightOf = (path: string) => [...readModel(path).graph.initializers][0]!.initializer!;

describe('external data', () => {
  it("stays where it is when it lies in the model's folder", () => {
    const folder = join(scratch, 'own');
    mkdirSync(join(folder, 'data'), { recursive: true });
    writeModel(withDataFile(join(folder, 'data', 'w.bin')), join(folder, 'model.onnx'));
    const weight = weightOf(join(folder, 'model.onnx'));
    expect(weight.source).toMatchObject({ path: join(folder, 'data', 'w.bin') });
    expect(weight.toNumbers()).toEqual([1, 2, 3, 4]);
  });

  it('comes along from a folder whose name only begins like that of the model', () => {
    mkdirSync(join(scratch, 'model'));
    mkdirSync(join(scratch, 'model-data'));
    const path = join(scratch, 'model', 'model.onnx');
    writeModel(withDataFile(join(scratch, 'model-data', 'w.bin')), path);
    expect(weightOf(path).isExternal).toBe(false);
    expect(weightOf(path).toNumbers()).toEqual([1, 2, 3, 4]);
  });

  it("is refused outside the model's folder, by its name or through a link", () => {
    const folder = join(scratch, 'inner');
    mkdirSync(join(folder, 'ab'), { recursive: true });
    const path = join(folder, 'model.onnx');
    writeModel(withDataFile(join(folder, 'ab', 'w.bin')), path);
    const outside = expect.objectContaining({ code: 'MODEL_EXTERNAL_OUTSIDE' });

    renameSync(join(folder, 'ab', 'w.bin'), join(scratch, 'w.bin'));
    symlinkSync(join(scratch, 'w.bin'), join(folder, 'ab', 'w.bin'));
    expect(() => readModel(path)).toThrowError(outside);

    const bytes = readFileSync(path);
    bytes.write('../w.bin', bytes.indexOf('ab/w.bin'));
    writeFileSync(path, bytes);
    expect(() => readModel(path)).toThrowError(outside);
  });

  it('may have a name that begins with dots', () => {
    const folder = join(scratch, 'dots');
    mkdirSync(folder);
    writeModel(withDataFile(join(folder, '..w.bin')), join(folder, 'model.onnx'));
    expect(weightOf(join(folder, 'model.onnx')).toNumbers()).toEqual([1, 2, 3, 4]);
  });
});
