import { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node';
import { encodeModel } from '../../src/onnx/encode.ts';
import type { Graph } from '../../src/onnx/graph.ts';

/** Numbers with dimensions, as fed to or read from a session. */
export interface Numbers {
  readonly dims: readonly number[];
  readonly values: readonly number[];
  /** Default: the float type that the graph was built in. */
  readonly dtype?: string;
}

export type Float = 'float32' | 'float64';

function toOrt({ dims, values, dtype }: Numbers, float: Float): OrtTensor {
  switch (dtype) {
    case 'int64':
      return new OrtTensor('int64', BigInt64Array.from(values, BigInt), dims);
    case 'int32':
      return new OrtTensor('int32', Int32Array.from(values), dims);
    case 'bool':
      return new OrtTensor('bool', Uint8Array.from(values), dims);
    default:
      return float === 'float64'
        ? new OrtTensor('float64', Float64Array.from(values), dims)
        : new OrtTensor('float32', Float32Array.from(values), dims);
  }
}

export interface Runner {
  /** Results by output name. */
  run(
    feeds: Readonly<Record<string, Numbers>>,
  ): Promise<Record<string, { dims: number[]; values: number[] }>>;
  release(): Promise<void>;
}

/** A session over a graph, as trainers make it: with all of ONNX Runtime's graph optimisations. */
export async function session(graph: Graph, opset: number, float: Float): Promise<Runner> {
  const irVersion = opset >= 23 ? 11 : 8;
  const bytes = encodeModel({
    irVersion,
    opsets: new Map([['', opset]]),
    graph,
    producer: 'test',
    metadata: new Map(),
  });
  const made = await InferenceSession.create(bytes, { logSeverityLevel: 3, intraOpNumThreads: 1 });
  return {
    async run(feeds) {
      const inputs = Object.fromEntries(
        Object.entries(feeds)
          .filter(([name]) => made.inputNames.includes(name))
          .map(([name, numbers]) => [name, toOrt(numbers, float)]),
      );
      const results = await made.run(inputs);
      return Object.fromEntries(
        Object.entries(results).map(([name, tensor]) => [
          name,
          { dims: [...tensor.dims], values: Array.from(tensor.data as ArrayLike<number>, Number) },
        ]),
      );
    },
    release: () => made.release(),
  };
}

export function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}
