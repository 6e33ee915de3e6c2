import { existsSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import * as ort from 'onnxruntime-node';
import { encodeModel } from '../../src/onnx/encode.ts';
import type { Graph, Model, Value } from '../../src/onnx/graph.ts';
import { float16ToFloat32 } from '../../src/onnx/half.ts';
import { evaluate } from '../../src/passes/symbolic.ts';

/** Every .onnx file under fixtures/models, as [name, path]. */
export const fixtures: (readonly [string, string])[] = (() => {
  const models = resolve('fixtures/models');
  return readdirSync(models).flatMap((name) => {
    const folder = join(models, name, 'onnx');
    if (!existsSync(folder)) return [];
    return readdirSync(folder)
      .filter((file) => file.endsWith('.onnx'))
      .map((file) => [`${name}/${file}`, join(folder, file)] as const);
  });
})();

/** A model around a graph built by hand. */
export function modelOf(graph: Graph, opset = 17): Model {
  const opsets = new Map([
    ['', opset],
    ['com.microsoft', 1],
  ]);
  return { irVersion: 9, opsets, graph, producer: '', metadata: new Map() };
}

export type Lengths = Record<string, number>;
export type Feeds = Record<string, ort.Tensor>;

/** Lengths for the names of the inputs' dims: batch 2, no past, 5 positions. */
export function lengthsOf(model: Model, batch = 2, sequence = 5): Lengths {
  const lengths: Lengths = {};
  for (const input of model.graph.inputs)
    (input.shape ?? []).forEach((dim, axis) => {
      if (typeof dim !== 'string' || /\+/.test(dim)) return;
      lengths[dim] = axis === 0 ? batch : /past/.test(dim) ? 0 : sequence;
    });
  return lengths;
}

/** Ids, masks (the last row's last position masked) and empty caches, whatever the graph's inputs ask for. */
export function feedsFor(inputs: readonly Value[], lengths: Lengths): Feeds {
  return Object.fromEntries(
    inputs.map((input) => {
      const dims = (input.shape ?? []).map((dim) => evaluate(dim, lengths) ?? 1);
      const size = dims.reduce((a, b) => a * b, 1);
      const last = dims.at(-1) ?? 1;
      if (input.dtype === 'int64') {
        const item = (_: unknown, i: number) => {
          if (/mask/.test(input.name)) return i === size - 1 ? 0n : 1n;
          if (/position/.test(input.name)) return BigInt(i % last);
          return /token_type/.test(input.name) ? BigInt(i % 2) : BigInt((i * 7) % 50);
        };
        return [input.name, new ort.Tensor('int64', BigInt64Array.from({ length: size }, item), dims)];
      }
      if (input.dtype === 'bool') return [input.name, new ort.Tensor('bool', new Uint8Array(size), dims)];
      if (input.dtype === 'float16')
        return [input.name, new ort.Tensor('float16', new Uint16Array(size), dims)];
      return [input.name, new ort.Tensor('float32', new Float32Array(size), dims)];
    }),
  );
}

/** Runs a file or a model in memory, unoptimised where intermediate values are asked for. */
export async function run(
  model: Model | string,
  feeds: Feeds,
  optimise: 'all' | 'basic' | 'disabled' = 'all',
): Promise<Record<string, ort.Tensor>> {
  const options = { logSeverityLevel: 3, graphOptimizationLevel: optimise } as const;
  const session =
    typeof model === 'string'
      ? await ort.InferenceSession.create(model, options)
      : await ort.InferenceSession.create(encodeModel(model), options);
  try {
    const wanted = Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]!]));
    return { ...(await session.run(wanted)) };
  } finally {
    await session.release();
  }
}

/** float16 outputs as float32; others as they are. */
export function toFloat32(tensor: ort.Tensor): ort.Tensor {
  if (tensor.type !== 'float16') return tensor;
  const bits = new Uint16Array((tensor.data as Uint16Array).slice().buffer);
  return new ort.Tensor('float32', float16ToFloat32(bits), tensor.dims);
}

/** Largest |a - b| over the largest |b|. */
export function scaledError(actual: ort.Tensor, expected: ort.Tensor): number {
  const a = actual.data as Float32Array;
  const b = expected.data as Float32Array;
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  let scale = 0;
  b.forEach((x, i) => {
    const difference = Math.abs(x - a[i]!);
    worst = Math.max(worst, Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference);
    scale = Math.max(scale, Math.abs(x));
  });
  return worst === 0 ? 0 : worst / scale;
}
