import * as ort from 'onnxruntime-node';
import { Builder } from '../onnx/builder.ts';
import { encodeModel } from '../onnx/encode.ts';
import { Graph } from '../onnx/graph.ts';
import { Tensor } from '../onnx/tensor.ts';

let asked: Promise<boolean> | undefined;

/**
 * Whether this processor's kernels for products of unsigned and signed 8-bit numbers overflow: on x64 without VNNI they
 * add pairs of products in 16 bits, which saturate. Asked once a process, by a product of the largest numbers.
 */
export function int8Overflows(): Promise<boolean> {
  asked ??= probe();
  return asked;
}

async function probe(): Promise<boolean> {
  const [inner, outer] = [64, 16];
  const graph = new Graph('probe');
  const x = graph.input('x', 'uint8', [1, inner]);
  const builder = new Builder(graph, '');
  const weight = builder.constant(
    'weight',
    Tensor.of('int8', new Int8Array(inner * outer).fill(127), [inner, outer]),
  );
  const y = builder.op('MatMulInteger', [x, weight], { dtype: 'int32', shape: [1, outer] });
  graph.outputs = [y];
  const opsets = new Map([['', 13]]);
  const bytes = encodeModel({ irVersion: 8, opsets, graph, producer: '', metadata: new Map() });
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ['cpu'] });
  const feeds = { x: new ort.Tensor('uint8', new Uint8Array(inner).fill(255), [1, inner]) };
  const sums = (await session.run(feeds))[y.name]!.data as Int32Array;
  await session.release();
  return sums.some((sum) => sum !== inner * 255 * 127);
}
