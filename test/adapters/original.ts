import { readFileSync } from 'node:fs';
import * as ort from 'onnxruntime-node';
import type { LinearModule, ModelConfig } from '../../src/adapters/module.ts';
import type { LowRankWeights, PeftAdapter } from '../../src/adapters/peft.ts';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { encodeModel } from '../../src/onnx/encode.ts';
import { Tensor } from '../../src/onnx/tensor.ts';

/** Rows of token ids and the like, by input name. */
export type Batch = Readonly<Record<string, readonly (readonly number[])[]>>;

export const configOf = (folder: string): ModelConfig =>
  JSON.parse(readFileSync(`${folder}/config.json`, 'utf8'));

/** delta W [in, out] = s A^T diag(g) B, summed in float64. */
export function delta({ rank, in: width, out, scale, A, B, gate }: LowRankWeights): Float64Array {
  const result = new Float64Array(width * out);
  for (let r = 0; r < rank; r++)
    for (let i = 0; i < width; i++)
      for (let j = 0; j < out; j++)
        result[i * out + j]! += scale * A[r * width + i]! * gate[r]! * B[r * out + j]!;
  return result;
}

/** The weight [in, out] or [out, in] as the file has it, with the adapter's product added. */
export function adaptedWeight(module: LinearModule, adapter: LowRankWeights | undefined): Float64Array {
  const values = Float64Array.from(module.weight.tensor.toFloat32());
  if (!adapter) return values;
  const product = delta(adapter);
  for (let i = 0; i < module.in; i++)
    for (let j = 0; j < module.out; j++)
      values[module.weight.layout === 'in-out' ? i * module.out + j : j * module.in + i]! +=
        product[i * module.out + j]!;
  return values;
}

/** A model file in memory whose weights hold the adapter: what loading the adapter must amount to. */
export function withAdapter(path: string, config: ModelConfig, adapter: PeftAdapter): Uint8Array {
  const model = readModel(path);
  const modules = findLinearModules(model, config);
  for (const [name, weights] of adapter.modules) {
    const module = modules.find((candidate) => candidate.name === name)!;
    const { value, tensor } = module.weight;
    value.initializer = Tensor.of(tensor.dtype, adaptedWeight(module, weights), tensor.dims);
  }
  for (const [name, tensor] of adapter.saved) {
    const value = [...model.graph.initializers].find((initializer) => initializer.name === name)!;
    value.initializer = tensor;
  }
  return encodeModel(model);
}

export function feedsOf(session: ort.InferenceSession, batch: Batch): Record<string, ort.Tensor> {
  const ids = batch.input_ids!;
  const dims = [ids.length, ids[0]!.length];
  const positions = ids.map((row) => row.map((_, i) => i));
  const zeros = ids.map((row) => row.map(() => 0));
  const all: Batch = { position_ids: positions, token_type_ids: zeros, ...batch };
  return Object.fromEntries(
    session.inputNames.map((name) => {
      if (name.startsWith('past_key_values'))
        return [name, new ort.Tensor('float32', new Float32Array(0), [ids.length, 2, 0, 8])];
      return [name, new ort.Tensor('int64', BigInt64Array.from(all[name]!.flat(), BigInt), dims)];
    }),
  );
}

/** Logits of a model file or of its bytes, flat. */
export async function logitsOf(model: string | Uint8Array, batch: Batch): Promise<Float32Array> {
  const session = await ort.InferenceSession.create(model as string, { logSeverityLevel: 3 });
  const { logits } = await session.run(feedsOf(session, batch));
  await session.release();
  return logits!.data as Float32Array;
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let largest = 0;
  for (let i = 0; i < a.length; i++) largest = Math.max(largest, Math.abs(a[i]! - b[i]!));
  return largest;
}
