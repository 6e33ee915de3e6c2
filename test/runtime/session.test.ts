import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Tensor as OrtTensor } from 'onnxruntime-node';
import { afterAll, describe, expect, it } from 'vitest';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph, type Model, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { randomStream } from '../../src/random.ts';
import { openSession, type SessionChoices } from '../../src/runtime/session.ts';
import { openWorkspace } from '../../src/runtime/workspace.ts';

// ONNX Runtime accepts options that it does not know without a word: each is tested by what it does.
const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-session-'));
afterAll(() => rmSync(scratch, { recursive: true }));
const workspace = openWorkspace({ folder: scratch });

/** A file of a graph from x [rows, width] to the values that `write` returns. */
function file(width: number, write: (make: Builder, x: Value) => readonly Value[], opset = 17): string {
  const graph = new Graph();
  graph.outputs = [...write(new Builder(graph, ''), graph.input('x', 'float32', ['rows', width]))];
  const opsets = new Map([['', opset]]);
  const model: Model = { irVersion: 10, opsets, graph, producer: 'test', metadata: new Map() };
  workspace.shareWeights(graph);
  return workspace.write(`graph-${readdirSync(scratch).length}`, model);
}

const open = (path: string, threads: number, choices?: SessionChoices) =>
  openSession(path, { device: 'cpu', threads }, choices);

function rows(count: number, width: number): OrtTensor {
  const random = randomStream(0, 'rows');
  return new OrtTensor(
    'float32',
    Float32Array.from({ length: count * width }, () => random.normal()),
    [count, width],
  );
}

const product = (make: Builder, x: Value, from: number, to: number) => {
  const weight = Tensor.float32(new Float32Array(from * to).fill(0.01), [from, to]);
  return make.op('MatMul', [x, make.constant('weight', weight)], { dtype: 'float32', shape: ['rows', to] });
};

describe.skipIf(!existsSync('/proc/self/smaps_rollup'))('options of a session (needs /proc)', () => {
  const megabyte = 2 ** 20;
  setFlagsFromString('--expose-gc');
  const collectGarbage = runInNewContext('gc') as () => void;
  /** Bytes of memory of this process that no file stands behind, once what JavaScript no longer holds is gone. */
  function anonymous(): number {
    // The second waits for what the first has left to threads beside it.
    collectGarbage();
    collectGarbage();
    return 1024 * Number(/^Anonymous: +(\d+)/m.exec(readFileSync('/proc/self/smaps_rollup', 'utf8'))![1]);
  }
  const threadIds = () => readdirSync('/proc/self/task');
  /** Threads that were not there before; one that has ended may be listed for a moment longer. */
  function newSince(before: readonly string[]): string[] {
    const known = new Set(before);
    return threadIds().filter((id) => !known.has(id));
  }
  /** Milliseconds of processor time. */
  const usedBy = (threads: readonly string[]) =>
    threads.reduce(
      (sum, id) => sum + Number(readFileSync(`/proc/self/task/${id}/schedstat`, 'utf8').split(' ')[0]) / 1e6,
      0,
    );

  it('threads: as many as asked for, the caller among them', async () => {
    const path = file(64, (make, x) => [product(make, x, 64, 64)]);
    const counts: number[] = [];
    for (const threads of [1, 2, 7]) {
      const before = threadIds();
      const session = await open(path, threads);
      counts.push(newSince(before).length);
      await session.release();
    }
    // Node may start threads of its own with the first.
    expect(counts[2]! - counts[1]!).toBe(5);
  });

  it('prepacking: only where it is asked for, the weights are copied', async () => {
    const width = 4096;
    const weights = 4 * width * width;
    const path = file(width, (make, x) => [product(make, x, width, width)]);
    for (const prepack of [false, true]) {
      const before = anonymous();
      const session = await open(path, 1, { prepack });
      const grown = anonymous() - before;
      if (prepack) expect(grown).toBeGreaterThan(0.75 * weights);
      else expect(grown).toBeLessThan(0.25 * weights);
      await session.release();
    }
  });

  it('arena and memory pattern: what a run took is kept for the next, and nothing beside it', async () => {
    const [count, width] = [1024, 16_384];
    const hidden = 4 * count * width;
    const path = file(1, (make, x) => [
      make.op('ReduceMean', [make.op('Exp', [product(make, x, 1, width)])], { dtype: 'float32' }),
    ]);
    const session = await open(path, 1);
    const x = rows(count, 1);
    const grown: number[] = [];
    for (let i = 0; i < 3; i++) {
      const before = anonymous();
      await session.run({ x });
      grown.push(anonymous() - before);
    }
    await session.release();
    expect(hidden).toBe(64 * megabyte);
    expect(grown[0]).toBeGreaterThan(0.75 * hidden);
    expect(Math.max(grown[1]!, grown[2]!)).toBeLessThan(0.25 * hidden);
  });

  it('spinning: threads sleep once a run has ended', async () => {
    const width = 256;
    const path = file(width, (make, x) => [product(make, x, width, width)]);
    const before = threadIds();
    const session = await open(path, 4);
    const pool = newSince(before);
    const x = rows(256, width);
    let [idle, passed] = [0, 0];
    for (let i = 0; i < 10; i++) {
      await session.run({ x });
      const [used, since] = [usedBy(pool), performance.now()];
      await sleep(20);
      idle += usedBy(pool) - used;
      passed += performance.now() - since;
    }
    await session.release();
    expect(pool.length).toBeGreaterThanOrEqual(3);
    // Three that spin take all of a core at least, three that sleep a thousandth.
    expect(idle).toBeLessThan(passed / 10);
  });
});

it('block-wise 4-bit weights meet activations that are not rounded', async () => {
  const [from, to, block] = [64, 16, 32];
  const random = randomStream(0, 'weights');
  const packed = Uint8Array.from({ length: (from * to) / 2 }, () => Math.floor(256 * random.uniform()));
  const scales = Float32Array.from({ length: (from / block) * to }, () => 0.01 + 0.01 * random.uniform());
  const weight = new Tensor('int4', [from, to], packed);
  const exact = Float32Array.from(
    weight.toNumbers() as number[],
    (value, i) => value * scales[Math.floor(i / to / block) * to + (i % to)]!,
  );
  const path = file(
    from,
    (make, x) => {
      const float = { dtype: 'float32', shape: [from, to] } as const;
      const inputs = [
        make.constant('packed', weight),
        make.constant('scales', Tensor.float32(scales, [from / block, to])),
      ];
      const dequantised = make.op('DequantizeLinear', inputs, {
        ...float,
        attributes: { axis: 0, block_size: block },
      });
      return [dequantised, make.constant('exact', Tensor.float32(exact, [from, to]))].map((each) =>
        make.op('MatMul', [x, each], { dtype: 'float32', shape: ['rows', to] }),
      );
    },
    21,
  );
  const session = await open(path, 1, { prepack: true });
  const [found, expected] = Object.values(await session.run({ x: rows(8, from) })).map(
    ({ data }) => data as Float32Array,
  ) as [Float32Array, Float32Array];
  await session.release();
  const error = Math.max(...found.map((value, i) => Math.abs(value - expected[i]!)));
  expect(error).toBeLessThan(1e-5 * Math.max(...expected.map(Math.abs)));
});
